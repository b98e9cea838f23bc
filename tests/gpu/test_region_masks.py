"""How region_masks' kernels run on a CUDA device; what they compute: tests/ops."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import segloss_fast  # registers the operator  # noqa: F401
from benchmarks.measure.cuda import capture
from segloss_fast.ops.region_masks import prediction_masks, target_masks
from segloss_fast.ops.region_masks.op import kernels
from tests.gpu.device import DEVICE, KERNELS, no_synchronisation, require
from tests.ops.distance_transform_cases import lay_out
from tests.ops.region_masks_cases import (
    Case,
)

by_kernel = pytest.mark.parametrize("impl", KERNELS)


def launch(impl: str, case: Case) -> Tensor:
    """Return the masks of a problem that is on the device."""
    operator = torch.ops.segloss_fast.region_masks
    values, labels, classes, _, ignored, first = case.arguments
    result: Tensor = operator(values, labels, classes, case.mode, ignored, first, impl)
    return result


def volume(*size: int, classes: int = 4) -> Case:
    """Return a softmax beside labels, on the device."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    x = torch.randn((2, classes, *size), generator=generator, device=DEVICE)
    labels = torch.randint(0, classes, (2, *size), generator=generator, device=DEVICE)
    return Case(x, labels, classes, "softmax", 1)


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
def test_more_than_2_to_the_31_values(impl: str, shape: Sequence[int], free_memory: int) -> None:
    """Only the last voxels are inside, so a wrapped offset shows."""
    require(impl, "region_masks")
    values = torch.Size(shape).numel()
    if free_memory < 5 * values:
        pytest.skip("not enough memory on the device")
    x = torch.zeros(tuple(shape), dtype=torch.float16, device=DEVICE)
    x[:, -1].flatten()[-5:] = 9
    found = launch(impl, Case(x, None, shape[1], "softmax"))
    assert found[:, -1].flatten()[-5:].all()
    assert found.count_nonzero().item() == 5
