"""soft_skeleton's kernels on a CUDA device, each against the definition, and the CPU's kernels."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from benchmarks.measure.cuda import capture
from segloss_fast.ops.soft_skeleton import soft_skeleton
from segloss_fast.ops.soft_skeleton.op import kernels
from tests.gpu.device import DEVICE, free_memory, no_synchronisation, require
from tests.ops.distance_transform_cases import LAYOUTS, lay_out
from tests.ops.soft_skeleton_cases import KINDS, check, exact, solve, values, weights

SIZES = [(1,), (3001,), (1, 1), (127, 130), (40, 1), (1, 6, 5), (33, 1, 9), (19, 28, 37)]
CPU = "native" if kernels.why_not("native", torch.device("cpu")) is None else "reference"


@pytest.fixture(autouse=True)
def _there() -> None:
    require("triton", "soft_skeleton")


def run(x: Tensor, iterations: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """Return the skeletons, and the gradient of the CPU's weighted sum, for a map of the CPU."""
    return solve(x.to(DEVICE), iterations, "triton", first, weights(x).to(DEVICE))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_reference(kind: str, size: Sequence[int]) -> None:
    for dtype in (torch.float32, torch.float64):
        for iterations, first in ((0, 0), (2, 1), (7, 0)):
            x = values(kind, (2, 3, *size), dtype)
            check(run(x, iterations, first), x, iterations, first)


@pytest.mark.parametrize("size", [(90, 80), (40, 50, 60)], ids=str)
def test_ties_are_broken_alike(size: Sequence[int]) -> None:
    """Sums of few binary digits round nothing, so equal means that the same voxels take part."""
    x, grad = exact(values("quarters", (1, 2, *size)), 3)
    _, found = solve(x.to(DEVICE), 3, "triton", grad=grad.to(DEVICE))
    assert torch.equal(found.cpu(), solve(x, 3, "reference", grad=grad)[1])


@pytest.mark.parametrize("size", [(500, 700), (70, 80, 90)], ids=str)
def test_equals_the_kernels_of_the_cpu(size: Sequence[int]) -> None:
    x = values("saturated", (2, 5, *size), torch.float32)  # more planes than go together
    found = run(x, 3)
    check(found, x, 3, impl=CPU)
    for other, same in zip(run(x, 3), found, strict=True):
        assert torch.equal(other, same)  # the bits repeat
    mask = soft_skeleton((x > 0.4).to(DEVICE), 3, impl="triton")
    assert torch.equal(mask.cpu(), soft_skeleton(x > 0.4, 3, impl=CPU))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    x = lay_out(values("quarters", (2, 3, 9, 17, 20), torch.float32).to(DEVICE), layout)
    grad = lay_out(weights(x.cpu()).to(DEVICE), "contiguous" if layout == "expanded" else layout)
    found = torch.ops.segloss_fast.soft_skeleton(x, 2, 0, "triton")
    backward = torch.ops.segloss_fast.soft_skeleton_backward(grad, x, 2, 0, "triton")
    check((found, backward), x, 2)


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
def test_more_than_2_to_the_31_voxels(shape: Sequence[int]) -> None:
    """Only voxels apart from each other, among the last, are not 0, so a wrapped offset shows."""
    total = torch.Size(shape).numel()
    if free_memory() < 40 * total:
        pytest.skip("not enough memory on the device")
    x = torch.zeros((1, 1, *shape), device=DEVICE)
    x.flatten()[-16::5] = 1
    # The opening takes all of them.
    assert torch.equal(torch.ops.segloss_fast.soft_skeleton(x, 0, 0, "triton"), x)
    grad = torch.ones((), device=DEVICE).expand(x.shape)
    found = torch.ops.segloss_fast.soft_skeleton_backward(grad, x, 0, 0, "triton")
    assert found.flatten()[-16::5].sum().item() == 4
    assert found.sum(dtype=torch.float64).item() == 0  # of each window a 1 and a -1
