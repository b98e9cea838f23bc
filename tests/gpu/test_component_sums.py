"""How component_sums' kernels run on a CUDA device; what they compute: tests/ops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import segloss_fast
from benchmarks.measure.cuda import capture
from segloss_fast import component_sums
from segloss_fast.ops.component_sums import TERMS
from tests.gpu.device import DEVICE, no_synchronisation, require
from tests.helpers import gradient, relative_l2


def problem(classes: int, size: tuple[int, ...], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, labels and bins in runs of several lengths, on the device."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    x = 2 * torch.randn((2, classes, *size), generator=generator, device=DEVICE)
    labels = torch.randint(0, classes, (2, *size), generator=generator, device=DEVICE)
    steps = torch.rand((2, 1, *size), generator=generator, device=DEVICE) < 0.05
    bins = steps.flatten(2).cumsum(2).view(steps.shape) % (count + 1)
    return x, labels, bins.int()


def solve(x: Tensor, labels: Tensor, bins: Tensor, count: int, **options: Any) -> Tensor:  # noqa: ANN401
    """Return the rows by the kernels."""
    require("native", "component_sums")
    options = {"terms": TERMS, "impl": "native", **options}
    return component_sums(x, labels, bins, count=count, **options).rows


@pytest.mark.parametrize("count", [1, 40, 100_000])
@pytest.mark.parametrize("classes", [1, 2, 5, 14, 105, 1100])
def test_many_classes_and_bins(classes: int, count: int) -> None:
    """From slots for each class to none, and from one bin to more than warps have voxels."""
    x, labels, bins = problem(classes, (12, 17, 40), count)
    activation = "sigmoid" if classes == 1 else "softmax"
    found, grad = gradient(lambda x: solve(x, labels, bins, count, activation=activation), x)
    true, true_grad = gradient(
        lambda x: solve(x, labels, bins, count, activation=activation, impl="reference"),
        x.double(),
    )
    assert relative_l2(found, true) < 1e-6
    assert relative_l2(grad, true_grad) < 3e-6


@pytest.mark.parametrize("count", [3, 50_000])
def test_the_same_bits_every_time(count: int) -> None:
    x, labels, bins = problem(3, (64, 65, 66), count)
    first = gradient(lambda x: solve(x, labels, bins, count), x)
    for _ in range(5):
        again = gradient(lambda x: solve(x, labels, bins, count), x)
        for one, other in zip(again, first, strict=True):
            assert torch.equal(one, other)


def test_the_host_never_waits() -> None:
    x, labels, bins = problem(2, (40, 41, 42), 9)
    solve(x, labels, bins, 9)
    with no_synchronisation():
        gradient(lambda x: solve(x, labels, bins, 9), x)


def test_a_cuda_graph_replays_it() -> None:
    x, labels, bins = problem(2, (16, 17, 18), 9)
    graph, found = capture(lambda: solve(x, labels, bins, 9))
    for shift in (1, 5):
        x.copy_(x.roll(shift, -1))
        graph.replay()
        assert torch.equal(found, solve(x, labels, bins, 9))


def test_invalid_labels_are_nan_and_debug_mode_says_which() -> None:
    x, labels, bins = problem(2, (5, 6, 7), 9)
    labels[1, 2, 3, 4] = 77
    assert solve(x, labels, bins, 9).isnan().all()
    with segloss_fast.debug(), pytest.raises(ValueError, match="first of which is 77"):
        solve(x, labels, bins, 9)


def test_memory_is_that_of_the_sums() -> None:
    x, labels, bins = problem(2, (96, 96, 96), 40)
    solve(x, labels, bins, 40)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    rows = solve(x, labels, bins, 40)
    assert torch.cuda.max_memory_allocated() - before <= 6 * rows.numel() * 8 + 2**20


def test_losses_over_given_maps_are_captured() -> None:
    """With count, or max_components; without, the capture says what is missing."""
    x, labels, _ = problem(2, (16, 17, 18), 1)
    labels = (labels * torch.rand(labels.shape, device=DEVICE) > 0.6).long()
    cells = segloss_fast.component_cells(labels, 2)
    count = int(cells.max())
    loss = segloss_fast.ComponentDiceCELoss()
    with no_synchronisation():
        loss(x, labels, cells=cells, count=count)
    graph, found = capture(lambda: loss(x, labels, cells=cells, count=count))
    graph.replay()
    assert torch.equal(found, loss(x, labels, cells=cells))
    other = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="give max_components"), torch.cuda.graph(other):
        loss(x, labels, cells=cells)


@pytest.mark.parametrize("shape", [(1, 2, 2049, 1024, 1025)], ids=str)
def test_more_than_2_to_the_31_values(shape: tuple[int, ...], free_memory: int) -> None:
    """Only the last voxels are in a bin, so a wrapped offset shows."""
    require("native", "component_sums")
    voxels = torch.Size(shape[2:]).numel()
    if free_memory < 16 * voxels:
        pytest.skip("not enough memory on the device")
    x = torch.zeros(shape, dtype=torch.float16, device=DEVICE)
    labels = torch.zeros((1, *shape[2:]), dtype=torch.uint8, device=DEVICE)
    bins = torch.zeros((1, 1, *shape[2:]), dtype=torch.int32, device=DEVICE)
    bins.flatten()[-5:] = 1
    rows = component_sums(x, labels, bins, count=1, terms=["pred", "weight"], impl="native").rows
    assert rows[0, 0, 0].tolist() == [(voxels - 5) / 2, 2.5]
    assert rows[1, 0, 1].tolist() == [voxels - 5, 5]
