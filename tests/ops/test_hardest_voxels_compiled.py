"""Compiles the Triton kernels of hardest_voxels for GPUs that need not be there."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch

from segloss_fast.ops._triton.launch import Launch
from segloss_fast.ops._triton.views import Tensors
from segloss_fast.ops.hardest_voxels import triton_launch
from segloss_fast.ops.region_sums import ACTIVATIONS
from tests.ops.triton.compiler import Compiled, compile_launch, specialization

pytestmark = pytest.mark.compiled


@dataclass(frozen=True)
class Kind:
    """What a kernel is compiled for."""

    dtype: torch.dtype = torch.float32
    target: torch.dtype = torch.int64
    classes: int = 4
    activation: str = "softmax"
    dense: bool = False
    weighted: int | None = None  # its classes
    scaled: bool = False
    space: Sequence[int] = (64, 64, 64)


KINDS = {
    "float32": Kind(),
    "float16": Kind(torch.float16),
    "bfloat16": Kind(torch.bfloat16, torch.uint8, 14),
    "weights": Kind(weighted=4, scaled=True, target=torch.uint8),
    "values": Kind(dense=True, target=torch.float32, classes=2, weighted=1),
    "sigmoid": Kind(activation="sigmoid"),
    "probabilities": Kind(activation="probabilities", dense=True, target=torch.float32),
    "many sigmoids": Kind(classes=40, activation="sigmoid"),
    "many": Kind(classes=105),
    "wide": Kind(classes=200),
    "wide values": Kind(classes=200, dense=True, target=torch.float32),
    "odd": Kind(space=(63, 61, 3)),
}


def launches_of(kind: Kind, batch: int = 2, k: float = 10.0, first: int = 0) -> list[Launch]:
    with torch.device("meta"):
        x = torch.empty((batch, kind.classes, *kind.space), dtype=kind.dtype)
        t = torch.empty(x.shape if kind.dense else (batch, *kind.space), dtype=kind.target)
        w = None if kind.weighted is None else torch.empty((batch, kind.weighted, *kind.space))
        scales = torch.empty(kind.classes, dtype=torch.float64) if kind.scaled else None
        weights = torch.empty((batch, 1, *kind.space))
        sums = torch.empty(batch, dtype=torch.float64)
        room = triton_launch._Room(x)
    tensors = Tensors(x, t, 255, {"w": x if w is None else w})
    act = ACTIVATIONS.index(kind.activation)
    entropy = triton_launch.entropy_launch(tensors, w, scales, act, first, weights, room)
    return [entropy, *triton_launch.select_launches(weights, sums, k, room)]


def search_of(space: Sequence[int], capability: int) -> dict[str, Compiled]:
    """Return the kernels that search and weigh the map."""
    found = launches_of(replace(KINDS["float32"], space=space))[1:]
    kernels = {launch.kernel.__name__: launch for launch in found}
    return {name: compile_launch(launch, capability) for name, launch in kernels.items()}


@pytest.mark.parametrize(("name", "capability"), [*zip(KINDS, itertools.cycle((90, 80)))])
def test_cross_entropies_do_not_spill(name: str, capability: int) -> None:
    found = compile_launch(launches_of(KINDS[name])[0], capability)
    report = found.report()
    assert report["loop_spills"] == found.stack == 0
    # Four programs of 128 threads on a multiprocessor of 65536 registers, at least.
    assert found.registers <= 128
    assert "ATOMS" in found.sass  # digits are counted in shared memory


@pytest.mark.parametrize(("space", "capability"), [((64, 64, 64), 90), ((63, 61, 3), 80)], ids=str)
def test_the_search_does_not_spill(space: Sequence[int], capability: int) -> None:
    found = search_of(space, capability)
    assert set(found) == {"count_digits", "weigh", "sum_weights"}
    for name, kernel in found.items():
        assert kernel.report()["loop_spills"] == kernel.stack == 0, name
        assert kernel.registers <= 128, name


@pytest.mark.parametrize("capability", [80, 90])
def test_everything_is_read_once_in_vectors(capability: int) -> None:
    # Four voxels of four classes, and of labels of eight bytes; values beside the logits.
    report = compile_launch(launches_of(KINDS["float32"])[0], capability).report()
    assert report["loads"] == {16: 4 + 2}
    assert report["stores"] == {16: 1}
    report = compile_launch(launches_of(KINDS["values"])[0], capability).report()
    assert report["loads"] == {16: 2 + 2 + 1}
    report = compile_launch(launches_of(KINDS["float16"])[0], capability).report()
    assert report["loads"] == {16: 4 + 4}
    found = {name: k.report() for name, k in search_of((64, 64, 64), capability).items()}
    assert found["count_digits"]["loads"] == {16: 4096 // 128 // 4}
    assert found["weigh"]["loads"] == found["weigh"]["stores"] == {16: 1024 // 128 // 4}


@pytest.mark.parametrize("name", ["float32", "float16", "weights"])
def test_memory_that_begins_anywhere(name: str) -> None:
    for launch in launches_of(KINDS[name])[:2]:
        found = compile_launch(launch, 90, aligned=False)
        assert found.report()["loop_spills"] == found.stack == 0, launch.kernel.__name__
        assert 16 not in found.report()["loads"], launch.kernel.__name__


def test_sizes_and_numbers_make_no_new_kernels() -> None:
    kind = KINDS["weights"]
    one = launches_of(kind)
    for other in (
        launches_of(replace(kind, space=(8, 4, 4)), 1, 1e-7, 1),
        launches_of(replace(kind, space=(400,)), 16, 100.0),
    ):
        for launch, same in zip(one, other, strict=True):
            assert specialization(launch) == specialization(same)
