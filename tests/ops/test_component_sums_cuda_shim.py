"""How component_sums' CUDA kernels run, on the CPU: order of threads, limbs, slots, bad calls."""

from __future__ import annotations

import ctypes
import random
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

import segloss_fast
from segloss_fast.ops.component_sums import TERMS
from tests.conftest import ROOT, run_python
from tests.cuda_shim.operators import build_operators, build_primitive, sources_of
from tests.helpers import assert_close, gradient, relative_l2
from tests.machines import Machine, shim
from tests.ops import component_sums_shim
from tests.ops.component_sums_shim import TERM_CODES, backward, forward
from tests.sanitizers.test_sanitizers import runtime as runtime
from tests.suite.built import NATIVE, once

pytestmark = pytest.mark.shim

PROBABILITIES = 2
# Sums, their numbers, the gradient; where cells are found also to find runs, unite and number them,
# write those, and for each axis one of keys and one of pairs: the host does not know which fits.
LAUNCHES = {
    True: {"component_sums": 3, "connected_components": 0, "distance_transform": 0},
    False: {"component_sums": 3, "connected_components": 6, "distance_transform": 6},
}
PRED, WEIGHT, NLL = (TERMS.index(name) for name in ("pred", "weight", "nll"))


@pytest.fixture(autouse=True)
def library() -> ctypes.CDLL:
    device = shim("component_sums")
    device.segloss_shim_set_seed(0)
    return device


def noise(classes: int, voxels: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, labels and a bin of its own for each voxel, so that slots are given up."""
    generator = torch.Generator().manual_seed(classes)
    x = 3 * torch.randn(2, classes, voxels, generator=generator)
    labels = torch.randint(0, classes, (2, voxels), generator=generator)
    bins = torch.randint(0, count + 1, (2, 1, voxels), generator=generator, dtype=torch.int32)
    return x, labels, bins


def of_one_class(values: Tensor, bins: Tensor, weight: Tensor | None, terms: list[int]) -> Tensor:
    """Return rows of probabilities of one class in one item, [terms, bins]."""
    labels = torch.ones(1, values.numel(), dtype=torch.uint8)
    w = None if weight is None else weight.view(1, 1, -1)
    count = int(bins.max())
    arguments = (values.view(1, 1, -1), labels, bins.view(1, 1, -1), w, count)
    return forward(*arguments, PROBABILITIES, terms, None)[0][:, 0, 0]


def test_random_problems() -> None:
    draw = random.Random(0)
    for _ in range(20):
        component_sums_shim.run_random(draw)


@pytest.mark.parametrize("count", [3, 500])
def test_order_of_threads_and_blocks_changes_nothing(library: ctypes.CDLL, count: int) -> None:
    """Also of the multiprocessors: how voxels are cut depends on the shape alone."""
    problem = (*noise(2, 1300, count), None, count, 0, TERM_CODES, None)
    found = []
    for seed, multiprocessors in ((0, 3), (1, 3), (17, 200)):
        library.segloss_shim_set_seed(seed)
        library.segloss_shim_set_multiprocessors(multiprocessors)
        rows, _ = forward(*problem)
        found.append((rows, backward(rows.sqrt().nan_to_num(), *problem)))
    library.segloss_shim_set_multiprocessors(3)
    for rows, grad in found[1:]:
        assert torch.equal(rows, found[0][0])
        assert torch.equal(grad, found[0][1])


@pytest.mark.parametrize("shared", [0, 20_000])
def test_without_room_for_slots_all_goes_to_global_memory(
    library: ctypes.CDLL, shared: int
) -> None:
    """With little room classes have few slots, with none they have none."""
    problem = (*noise(9, 200, 30), None, 30, 0, TERM_CODES, None)
    wanted, _ = forward(*problem)
    library.segloss_shim_set_shared_bytes(shared or 9_600)
    try:
        found, _ = forward(*problem)
    finally:
        library.segloss_shim_set_shared_bytes(227 * 1024)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-12)


def test_sums_are_exact_where_a_warp_adds_one_voxel() -> None:
    """Each voxel of a bin is another warp's: what limbs add up is exact, above the lowest unit.

    It becomes a double by two roundings: of the limbs below the largest, and of all.
    """
    draw, generator = random.Random(3), torch.Generator().manual_seed(3)
    values = torch.rand(128 * 40, dtype=torch.float64, generator=generator)
    values *= 2.0 ** torch.randint(-60, 1, values.shape, generator=generator)
    bins = torch.zeros(128 * 40, dtype=torch.int32)
    places = [128 * tile + draw.randrange(128) for tile in range(40)]
    bins[places] = 1
    exact = sum((Fraction(float(values[place])) for place in places), Fraction(0))
    found = of_one_class(values, bins, None, [PRED])[0, 1]
    assert abs(Fraction(float(found)) - exact) <= 20 * Fraction(1, 2**80) + exact / 2**52


@pytest.mark.parametrize("scale", [1e-28, 1e-9, 1.0, 1e12, 1e25])
def test_weights_of_any_size_and_sign(scale: float) -> None:
    """Their sums cancel in part, and keep the digits that float64 has."""
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(700, generator=generator, dtype=torch.float64)
    weight = scale * torch.randn(700, generator=generator, dtype=torch.float64)
    bins = (torch.arange(700, dtype=torch.int32) // 9) % 30
    found = of_one_class(values, bins, weight, [PRED, WEIGHT])
    for row, each in zip(found, (weight * values, weight), strict=True):
        wanted = torch.zeros(30, dtype=torch.float64).index_add(0, bins, each)
        torch.testing.assert_close(row, wanted, rtol=1e-11, atol=1e-14 * scale)


def test_what_is_no_number_shows_in_its_bin_alone() -> None:
    """And sums beyond the range of the limbs are NaN, never wrong."""
    bins = torch.arange(1200, dtype=torch.int32) % 6
    infinite = float("inf")
    for value, wanted in ((float("nan"), "nan"), (infinite, "inf"), (-infinite, "-inf")):
        weight = torch.ones(1200, dtype=torch.float64)
        weight[6 * 150 + 2] = value
        row = of_one_class(torch.ones(1200), bins, weight, [WEIGHT])[0]
        assert str(float(row[2])) == wanted
        assert row[[0, 1, 3, 4, 5]].tolist() == [200.0] * 5
    weight[6 * 3 + 2] = infinite  # of both signs
    assert of_one_class(torch.ones(1200), bins, weight, [WEIGHT])[0, 2].isnan()
    weight[6 * 3 + 2] = weight[6 * 150 + 2] = 1e30
    assert of_one_class(torch.ones(1200), bins, weight, [WEIGHT])[0, 2].isnan()
    assert float(of_one_class(torch.zeros(1200), bins, None, [NLL])[0, 2]) == 200 * 100


def test_invalid_labels_are_counted_and_the_first_is_told() -> None:
    x, labels, bins = noise(3, 600, 4)
    labels[1, 500], labels[1, 40], labels[1, 41] = 77, 9, -5
    rows, invalid = forward(x, labels, bins, None, 4, 0, TERM_CODES, None)
    assert invalid.tolist() == [3, 9]
    assert rows.isnan().all()
    dense = torch.zeros(2, 3, 600)
    dense[1, 0, 30], dense[0, 2, 5] = 0.25, 2.0
    rows, invalid = forward(x, dense, bins, None, 4, 1, TERM_CODES, None)
    assert invalid.tolist() == [2, 2]
    assert rows.isnan().all()


def traffic() -> tuple[ctypes.CDLL, torch._ops._OpNamespace]:
    """Return the kernels with what their wide loads read counted."""
    name = "segloss_shim_component_traffic"

    def build(folder: Path) -> None:
        own = [Path(__file__).with_name("component_sums_traffic.cu")]
        own += [source for source in sources_of("component_sums") if source.stem == "op"]
        build_operators(own, folder / "traffic.so", name)

    path = once("shim-component_sums-traffic", NATIVE, build) / "traffic.so"
    torch.ops.load_library(str(path))
    return ctypes.CDLL(str(path)), getattr(torch.ops, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("own", [False, True])
def test_memory_traffic(dtype: torch.dtype, own: bool) -> None:
    """Of the softmax the input is read three and four times, all but the first from the cache."""
    library, operators = traffic()
    loaded = ctypes.c_ulonglong.in_dll(library, "segloss_loaded")
    x, labels, bins = noise(2, 1024, 3)
    x = x.to(dtype)
    bins = bins.expand(x.shape).contiguous() if own else bins
    arguments = (x, labels.to(torch.uint8), bins, None, 3, 0, TERM_CODES, None)
    loaded.value = 0
    rows, _ = operators._component_sums(*arguments)
    assert loaded.value == 3 * x.numel() * x.itemsize + 4 * x.numel()  # bins for each class
    loaded.value = 0
    operators._component_sums_backward(rows, *arguments)
    times = 2 if own else 1  # of the bins: for what classes share, and for the gradient
    assert loaded.value == 4 * x.numel() * x.itemsize + 4 * times * bins.numel()


@pytest.mark.parametrize("given", [False, True])
def test_launches_of_a_loss(library: ctypes.CDLL, given: bool) -> None:
    """A step of ComponentDiceCELoss: kernels by primitive, and the value."""
    x = torch.randn(1, 2, 6, 7, 40, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(1, 6, 7, 40, dtype=torch.int64)
    labels[0, 1:3, 2:4, 3:9] = labels[0, 4, 5, 20:30] = 1
    maps = {"cells": segloss_fast.component_cells(labels, 2), "count": 2} if given else {}
    loss = segloss_fast.ComponentDiceCELoss(impl="native")
    wanted, true_grad = gradient(lambda x: loss(x, labels, **maps), x)
    names = ("component_sums", "connected_components", "distance_transform")
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(Machine(name, *("shim",) * 2, "cuda_shim").prepared())
        before = [shim(name).segloss_shim_launches() for name in names]
        found, grad = gradient(lambda x: loss(x, labels, **maps), x)
        after = [shim(name).segloss_shim_launches() for name in names]
    launches = dict(zip(names, (b - a for a, b in zip(before, after, strict=True)), strict=True))
    assert launches == LAUNCHES[given]
    assert_close(found, wanted, 1e-6)
    assert relative_l2(grad, true_grad) < 3e-6


def test_what_must_be_refused() -> None:
    component_sums_shim.run_malformed()


@pytest.mark.sanitizers
def test_under_sanitizers(tmp_path: Path, runtime: dict[str, str]) -> None:
    library = build_primitive("component_sums", tmp_path, sanitize=True)
    arguments = ("-m", "tests.ops.component_sums_shim", str(library), "15")
    done = run_python(*arguments, folder=ROOT, **runtime, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stdout
    assert "no finding" in done.stdout, done.stdout
