"""How connected_components' kernels run on a CUDA device; what they compute: tests/ops."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measure.cuda import capture
from segloss_fast import Components, connected_components
from tests.gpu.device import DEVICE, no_synchronisation, require
from tests.ops.connected_components_cases import Case


def run(case: Case) -> Components:
    """Return the components of labels that are on the device."""
    require("native", "connected_components")
    return connected_components(
        case.labels,
        connectivity=case.connectivity,
        by_value=case.by_value,
        ignore_index=case.ignore_index,
        impl="native",
    )


def test_the_same_every_time() -> None:
    torch.manual_seed(0)
    mask = torch.rand(2, 2, 64, 128, 128, device=DEVICE) < 0.3
    first = run(Case(mask, "full")).labels
    for _ in range(10):
        assert torch.equal(run(Case(mask, "full")).labels, first)


def test_the_host_never_waits_but_by_value() -> None:
    mask = torch.rand(1, 2, 40, 41, 42, device=DEVICE) < 0.3
    run(Case(mask, "full"))
    with no_synchronisation():
        run(Case(mask, "full"))


def test_a_cuda_graph_replays_it_and_refuses_values() -> None:
    mask = torch.rand(1, 1, 16, 17, 70, device=DEVICE) < 0.3
    graph, result = capture(lambda: run(Case(mask, "full")))
    for shift in (1, 5):
        mask.copy_(mask.roll(shift, -1))
        graph.replay()
        assert torch.equal(result.labels, run(Case(mask, "full")).labels)
    other = torch.cuda.CUDAGraph()  # one that has captured refuses another capture by itself
    with pytest.raises(RuntimeError, match="reads the largest count"), torch.cuda.graph(other):
        run(Case(mask, "full", by_value=True))


def test_memory_is_that_of_the_labels_and_bits() -> None:
    mask = torch.rand(1, 1, 96, 96, 96, device=DEVICE) < 0.3
    run(Case(mask, "full"))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run(Case(mask, "full"))
    assert torch.cuda.max_memory_allocated() - before <= 4.2 * mask.numel() + 2**20
    assert result.labels.numel() == mask.numel()


@pytest.mark.parametrize("shape", [(3, 1, 1023, 1024, 1025), (1, 1, 2**31 - 1)], ids=str)
def test_about_2_to_the_31_voxels(shape: tuple[int, ...], free_memory: int) -> None:
    """Only the first and the last are foreground, so a wrapped place shows."""
    require("native", "connected_components")
    voxels = torch.Size(shape).numel()
    if free_memory < 8 * voxels:
        pytest.skip("not enough memory on the device")
    mask = torch.zeros(shape, dtype=torch.bool, device=DEVICE)
    for item in mask.flatten(1):
        item[0] = item[-1] = True
    found = connected_components(mask, impl="native")
    assert (found.count == 2).all()
    for item in found.labels.flatten(1):
        assert (item[0], item[-1]) == (1, 2)
        assert item.count_nonzero() == 2
