"""How nearest_component's kernels run on a CUDA device; most of what they compute: tests/ops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.measure.cuda import capture
from segloss_fast import debug, nearest_component
from tests.gpu.device import DEVICE, no_synchronisation, require, there
from tests.ops.nearest_cases import (
    IRRATIONAL,
    SPACINGS,
    UNIT,
    Case,
    blobs,
)

by_kernel = pytest.mark.parametrize("impl", ["native", "triton"])
SCRATCH = {"native": 4, "triton": 12}  # bytes per voxel, besides the result


def run(case: Case, impl: str) -> tuple[Tensor, Tensor]:
    """Return labels and distances by the device, which the labels alone must equal."""
    require(impl, "distance_transform")
    labels = there(case.labels)
    nearest, distance = nearest_component(labels, case.spacing, distance=True, impl=impl)
    assert torch.equal(nearest, nearest_component(labels, case.spacing, impl=impl)), case
    return nearest.cpu(), distance.cpu()


@by_kernel
@pytest.mark.parametrize("kind", SPACINGS)
def test_volumes_are_as_on_the_cpu(impl: str, kind: str) -> None:
    labels = torch.cat([blobs((70, 96, 121), density) for density in (0.001, 0.03, 0.4)])
    case = Case(labels, kind)
    expected, distance = nearest_component(labels, case.spacing, distance=True)
    nearest, far = run(case, impl)
    torch.testing.assert_close(far, distance, rtol=1e-6, atol=0)
    if kind == IRRATIONAL:
        assert (nearest != expected).float().mean() < 1e-3
    else:
        assert torch.equal(nearest, expected)


@by_kernel
@pytest.mark.parametrize("kind", [UNIT, IRRATIONAL])
def test_the_host_never_waits_and_graphs_replay_it(impl: str, kind: str) -> None:
    require(impl, "distance_transform")
    labels = blobs((40, 41, 42), 0.05).to(DEVICE)
    spacing = Case(labels, kind).spacing

    def call() -> Tensor:
        return nearest_component(labels, spacing, impl=impl)

    call()  # compiles
    with no_synchronisation():
        call()
    graph, result = capture(call)
    for shift in (1, 5):
        labels.copy_(labels.roll(shift, -1))
        graph.replay()
        assert torch.equal(result, call())
    labels.mul_(2**20)  # keys do not hold these
    graph.replay()
    assert torch.equal(result, call())


@by_kernel
def test_what_is_no_label_counts_as_0(impl: str) -> None:
    labels = blobs((20, 30, 40), 0.05)
    expected, _ = run(Case(labels), impl)
    nearest, _ = run(Case(torch.where(labels > 0, labels, -7)), impl)
    assert torch.equal(nearest, expected)
    wrong = torch.where(labels > 0, labels, -7).to(DEVICE)
    with debug(True), pytest.raises(ValueError, match=r"labels must lie between 0 and.*is -7"):
        nearest_component(wrong, impl=impl)


@by_kernel
def test_scratch_memory(impl: str) -> None:
    require(impl, "distance_transform")
    labels = blobs((96, 96, 96), 0.05).to(DEVICE)
    nearest_component(labels, impl=impl)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    nearest_component(labels, impl=impl)
    above = torch.cuda.max_memory_allocated() - before - 4 * labels.numel()
    assert above <= SCRATCH[impl] * labels.numel() + 2**20
