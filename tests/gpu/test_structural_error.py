"""How structural_error's kernels run on a CUDA device; what they compute: tests/ops."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import segloss_fast  # registers the operators  # noqa: F401
from benchmarks.measure.cuda import capture
from segloss_fast.ops.structural_error.op import kernels
from tests.gpu.device import DEVICE, no_synchronisation, require, there
from tests.helpers import impls, relative_l2
from tests.ops.structural_error_cases import (
    Case,
    maps,
    solve,
)

MAPS = {1: (0, 3), 2: (2, 6), 3: (4, 8)}  # of a group of planes, forward and backward


def calls(case: Case) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Return what computes the errors and the gradient of a problem that is on the device."""
    require("triton", "structural_error")
    x, t, grad, options = case.values, case.target, case.grad, (*case.options, "triton")
    forward = torch.ops.segloss_fast.structural_error.default
    backward = torch.ops.segloss_fast.structural_error_backward.default
    return lambda: forward(x, t, *options), lambda: backward(grad, x, t, *options)


def run(case: Case) -> tuple[Tensor, Tensor]:
    forward, backward = calls(case)
    return forward(), backward()


def on_device(case: Case) -> Case:
    x, t, grad = there(case.values), there(case.target), there(case.grad)
    return replace(case, values=x, target=t, grad=grad)


def volume(*space: int, classes: int = 4) -> Case:
    """Return a problem on the device."""
    return on_device(Case(*maps((1, classes, *space), random.Random(0))))


def test_the_cpu_kernels_say_the_same() -> None:
    assert kernels.choose("auto", torch.device(DEVICE)) in ("triton", "reference")
    case = Case(*maps((2, 2, 40, 41, 42), random.Random(0)))
    found = run(on_device(case))[0].cpu()
    if "native" in impls("structural_error"):
        native = torch.ops.segloss_fast._structural_error
        assert relative_l2(found, native(case.values, case.target, *case.options)) < 1e-5


@pytest.mark.parametrize("space", [(5000,), (200, 201), (40, 41, 42)], ids=str)
def test_the_host_never_waits_and_a_cuda_graph_gives_the_same_bits(space: Sequence[int]) -> None:
    case = volume(*space)
    first = run(case)  # compiles
    with no_synchronisation():
        again = run(case)
    graph, captured = capture(lambda: run(case))
    graph.replay()
    for one, other, replayed in zip(first, again, captured, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, replayed)


@pytest.mark.parametrize("space", [(2**23,), (2900, 2900), (204, 203, 202)], ids=str)
def test_memory_is_that_of_a_plane(space: Sequence[int]) -> None:
    for call, held in zip(calls(volume(*space, classes=6)), MAPS[len(space)], strict=True):
        call()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        above = torch.cuda.max_memory_allocated() - before - 4 * result.numel()
        assert above <= max(64 * 2**20, 4 * held * result[0, 0].numel()) + 2**22


def corner(x: Tensor, n: int) -> Tensor:
    """Return the last n voxels along every axis."""
    for axis in range(2, x.dim()):
        x = x.narrow(axis, x.shape[axis] - n, n)
    return x


@pytest.mark.parametrize("space", [(2049, 1024, 1025), (46400, 46400), (2**31 + 77,)], ids=str)
def test_more_than_2_to_the_31_voxels(space: Sequence[int], free_memory: int) -> None:
    """Only the last voxel is not 0, so a wrapped offset shows."""
    require("triton", "structural_error")
    voxels, held = torch.Size(space).numel(), MAPS[len(space)][1]
    if free_memory < (4 * held + 12) * voxels + 2**30:
        pytest.skip("not enough memory on the device")
    x = torch.zeros((1, 1, *space), device=DEVICE)
    corner(x, 1).fill_(1)
    small = corner(x, 5).cpu()
    true = solve(Case(small, torch.zeros_like(small), torch.ones_like(small)), torch.float32)
    t, ones = (torch.full((1,), n, device=DEVICE).expand(x.shape) for n in (0, 1.0))
    for call, expected in zip(calls(Case(x, t, ones)), true, strict=True):
        result = call()
        assert relative_l2(corner(result, 5).cpu(), expected) < 1e-5
        corner(result, 5).zero_()
        assert not bool(result.any())
