"""soft_skeleton's kernels on a CUDA device, each against the definition, and the CPU's kernels."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from benchmarks.measure.cuda import capture
from segloss_fast.ops.soft_skeleton import soft_skeleton
from segloss_fast.ops.soft_skeleton.op import kernels
from tests.gpu.device import DEVICE, no_synchronisation, require
from tests.ops.soft_skeleton_cases import check, solve, values, weights

CPU = "native" if kernels.why_not("native", torch.device("cpu")) is None else "reference"


@pytest.fixture(autouse=True)
def _there() -> None:
    require("triton", "soft_skeleton")


def run(x: Tensor, iterations: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """Return the skeletons, and the gradient of the CPU's weighted sum, for a map of the CPU."""
    return solve(x.to(DEVICE), iterations, "triton", first, weights(x).to(DEVICE))


@pytest.mark.parametrize("size", [(500, 700), (70, 80, 90)], ids=str)
def test_equals_the_kernels_of_the_cpu(size: Sequence[int]) -> None:
    x = values("saturated", (2, 5, *size), torch.float32)  # more planes than go together
    found = run(x, 3)
    check(found, x, 3, impl=CPU)
    for other, same in zip(run(x, 3), found, strict=True):
        assert torch.equal(other, same)  # the bits repeat
    mask = soft_skeleton((x > 0.4).to(DEVICE), 3, impl="triton")
    assert torch.equal(mask.cpu(), soft_skeleton(x > 0.4, 3, impl=CPU))


def test_the_host_never_waits_and_a_graph_replays_it() -> None:
    x = values("random", (2, 3, 20, 21, 22), torch.float32).to(DEVICE)
    grad = weights(x.cpu()).to(DEVICE)

    def step() -> tuple[Tensor, Tensor]:
        found = torch.ops.segloss_fast.soft_skeleton(x, 3, 0, "triton")
        return found, torch.ops.segloss_fast.soft_skeleton_backward(grad, x, 3, 0, "triton")

    step()  # compiles
    with no_synchronisation():
        step()
    graph, results = capture(step)
    x.copy_(x.roll(1, -1))
    graph.replay()
    for found, true in zip(results, step(), strict=True):
        assert torch.equal(found, true)


@pytest.mark.parametrize("backward", [False, True])
def test_memory_is_that_of_one_plane(backward: bool) -> None:
    x = torch.rand((1, 4, 128, 128, 128), device=DEVICE)
    name = "soft_skeleton_backward" if backward else "soft_skeleton"
    arguments = (x.clone(), x, 3, 0, "triton") if backward else (x, 3, 0, "triton")
    operator = getattr(torch.ops.segloss_fast, name)
    operator(*arguments)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = operator(*arguments)
    above = torch.cuda.max_memory_allocated() - before - 4 * result.numel()
    assert above <= (6 * (3 + 2) if backward else 16) * x[0, 0].numel() + 2**20


@pytest.mark.parametrize("shape", [(2049, 1024, 1025), (2**31 + 77,)], ids=str)
def test_more_than_2_to_the_31_voxels(shape: Sequence[int], free_memory: int) -> None:
    """Only voxels apart from each other, among the last, are not 0, so a wrapped offset shows."""
    total = torch.Size(shape).numel()
    if free_memory < 40 * total:
        pytest.skip("not enough memory on the device")
    x = torch.zeros((1, 1, *shape), device=DEVICE)
    x.flatten()[-16::5] = 1
    # The opening takes all of them.
    assert torch.equal(torch.ops.segloss_fast.soft_skeleton(x, 0, 0, "triton"), x)
    grad = torch.ones((), device=DEVICE).expand(x.shape)
    found = torch.ops.segloss_fast.soft_skeleton_backward(grad, x, 0, 0, "triton")
    assert found.flatten()[-16::5].sum().item() == 4
    assert found.sum(dtype=torch.float64).item() == 0  # of each window a 1 and a -1
