"""region_masks' kernels on a CUDA device, each against the definition in float64."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import segloss_fast  # registers the operator  # noqa: F401
from benchmarks.measure.cuda import capture
from segloss_fast._check import FLOATING
from segloss_fast.ops.region_masks import prediction_masks, target_masks
from segloss_fast.ops.region_masks.op import kernels
from segloss_fast.ops.region_masks.reference import MODES
from tests.gpu.device import DEVICE, KERNELS, free_memory, no_synchronisation, require, there
from tests.ops.distance_transform_cases import LAYOUTS, lay_out
from tests.ops.region_masks_cases import (
    CLASSES,
    DTYPES,
    Case,
    check,
    near_one_half,
    not_finite,
    random_case,
    random_labels,
    random_values,
)

by_kernel = pytest.mark.parametrize("impl", KERNELS)


def launch(impl: str, case: Case) -> Tensor:
    """Return the masks of a problem that is on the device."""
    operator = torch.ops.segloss_fast.region_masks
    values, labels, classes, _, ignored, first = case.arguments
    result: Tensor = operator(values, labels, classes, case.mode, ignored, first, impl)
    return result


def on_device(case: Case) -> Case:
    labels = None if case.labels is None else there(case.labels)
    return Case(there(case.values), labels, case.classes, case.mode, case.ignore_index, case.first)


def compare(impl: str, case: Case) -> None:
    require(impl, "region_masks")
    found = launch(impl, on_device(case))
    assert found.device.type == DEVICE
    check(found.cpu(), case)


def volume(*size: int, classes: int = 4) -> Case:
    """Return a softmax beside labels, on the device."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    x = torch.randn((2, classes, *size), generator=generator, device=DEVICE)
    labels = torch.randint(0, classes, (2, *size), generator=generator, device=DEVICE)
    return Case(x, labels, classes, "softmax", 1)


@by_kernel
@pytest.mark.parametrize("seed", range(4))
def test_random_problems(impl: str, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(100):
        compare(impl, random_case(draw))


@by_kernel
@pytest.mark.parametrize("space", [(1,), (96, 65, 33), (96, 64, 48), (300_001,)], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_volumes(impl: str, mode: str, space: Sequence[int]) -> None:
    draw = random.Random(0)
    labels = random_labels((2, *space), 5, torch.uint8, draw)
    if mode == "labels":
        return compare(impl, Case(labels, None, 5, mode, 1))
    values = random_values((2, 5, *space), torch.float32, draw, strange=False)
    for beside in (None, labels):
        compare(impl, Case(values, beside, 5, mode, 1, 1))


@by_kernel
@pytest.mark.parametrize("classes", [*CLASSES, 105])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_softmax_of_any_number_of_classes(impl: str, dtype: torch.dtype, classes: int) -> None:
    draw = random.Random(classes)
    for space in ((17, 33), (16, 64)):
        for layout in ("contiguous", "channels_last"):
            values = random_values((2, classes, *space), dtype, draw, strange=True)
            compare(impl, Case(lay_out(values, layout), None, classes, "softmax"))


@by_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes_and_layouts(impl: str, dtype: torch.dtype, layout: str) -> None:
    draw = random.Random(0)
    labels = lay_out(random_labels((2, 9, 17, 48), 5, dtype, draw), layout)
    values = lay_out(random_values((2, 5, 9, 17, 48), dtype, draw, strange=True), layout)
    for ignored in (None, 1, -1, 2**40):
        compare(impl, Case(labels, None, 5, "labels", ignored))
        compare(impl, Case(values, labels, 5, "values", ignored))
        if dtype in FLOATING:
            compare(impl, Case(values, labels, 5, "softmax", ignored))


@by_kernel
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_ends_of_the_range_and_the_middle(impl: str, dtype: torch.dtype) -> None:
    compare(impl, not_finite(dtype))
    compare(impl, near_one_half(dtype))


@by_kernel
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0, 5)], ids=str)
def test_empty(impl: str, shape: Sequence[int]) -> None:
    compare(impl, Case(torch.zeros(shape), None, 3, "softmax"))


@by_kernel
def test_the_host_never_waits(impl: str) -> None:
    require(impl, "region_masks")
    case = volume(40, 41, 42)
    launch(impl, case)  # compiles
    with no_synchronisation():
        launch(impl, case)


@by_kernel
def test_a_cuda_graph_replays_it(impl: str) -> None:
    require(impl, "region_masks")
    case = volume(16, 17, 18)
    graph, result = capture(lambda: launch(impl, case))
    for shift in (1, 5):
        case.values.copy_(case.values.roll(shift, -1))
        graph.replay()
        assert torch.equal(result, launch(impl, case))


@by_kernel
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_memory_is_that_of_the_masks(impl: str, layout: str) -> None:
    require(impl, "region_masks")
    case = volume(96, 96, 96)
    case = Case(lay_out(case.values, layout), case.labels, 4, "softmax", 1)
    launch(impl, case)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = launch(impl, case)
    assert torch.cuda.max_memory_allocated() - before <= result.numel() + 2**20


def test_the_choice() -> None:
    """What is named if it runs here, else what "auto" takes; never an error."""
    device = torch.device(DEVICE)
    running = [name for name in KERNELS if kernels.why_not(name, device) is None]
    best = running[0] if running else "reference"
    assert kernels.choose("auto", device) == best
    for name in KERNELS:
        assert kernels.choose(name, device) == (name if name in running else best)
    case = volume(9, 10, 11)

    def masks(impl: str) -> Tensor:
        x, labels = case.values, case.labels
        assert labels is not None
        inside = prediction_masks(x, labels, activation="softmax", ignore_index=1, impl=impl)
        true = target_masks(labels, 4, dense=False, ignore_index=1, impl=impl)
        return torch.stack([inside, true])

    for impl in ("auto", *KERNELS):
        assert torch.equal(masks(impl), masks("reference"))


@by_kernel
@pytest.mark.parametrize("shape", [(1, 2, 2049, 1024, 1025), (1, 1100, 2**21)], ids=str)
def test_more_than_2_to_the_31_values(impl: str, shape: Sequence[int]) -> None:
    """Only the last voxels are inside, so a wrapped offset shows."""
    require(impl, "region_masks")
    values = torch.Size(shape).numel()
    if free_memory() < 5 * values:
        pytest.skip("not enough memory on the device")
    x = torch.zeros(tuple(shape), dtype=torch.float16, device=DEVICE)
    x[:, -1].flatten()[-5:] = 9
    found = launch(impl, Case(x, None, shape[1], "softmax"))
    assert found[:, -1].flatten()[-5:].all()
    assert found.count_nonzero().item() == 5
