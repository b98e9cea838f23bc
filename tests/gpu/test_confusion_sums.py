"""How confusion_sums' Triton kernels run on a CUDA device; what they compute: tests/ops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import segloss_fast
from benchmarks.measure.cuda import capture
from segloss_fast.ops.confusion_sums import confusion_sums
from tests.gpu.device import DEVICE, no_synchronisation, require, there
from tests.helpers import relative_l2, relative_max
from tests.ops.confusion_sums_cases import (
    EPSILON,
    IGNORED,
    Case,
    case_of,
)


@pytest.fixture(autouse=True)
def _only_with_triton() -> None:
    require("triton", "confusion_sums")


def volume(classes: int, *size: int, kind: str = "ignored") -> Case:
    return case_of(classes, size, kind).each(there)


@pytest.mark.parametrize("classes", [4, 32, 105])
def test_equals_the_native_kernels_of_the_cpu(classes: int) -> None:
    """At a size where every program adds up many tiles."""
    case = case_of(classes, (96, 96, 48 if classes < 100 else 16), "ignored")
    value, grad = case.solve("native" if segloss_fast._native._C else "reference")
    found, found_grad = case.each(there).solve("triton")
    assert relative_max(found.cpu(), value) < 10 * EPSILON
    assert relative_l2(found_grad.cpu(), grad) < 10 * EPSILON


@pytest.mark.parametrize("classes", [4, 14, 105, 130])
def test_bits_repeat_and_the_host_never_waits(classes: int) -> None:
    case = volume(classes, 61, 67, 29)
    value, grad = case.solve("triton")  # compiles
    factors = torch.randn(value.shape, dtype=torch.float64, device=DEVICE)
    x = case.x.requires_grad_()
    with no_synchronisation():
        sums = confusion_sums(x, case.target, ignore_index=IGNORED, impl="triton")
        sums.backward(factors)
    for _ in range(5):
        again, again_grad = case.solve("triton")
        assert torch.equal(again, value)
        assert torch.equal(again_grad, grad)


def test_a_cuda_graph_replays_it() -> None:
    case = volume(14, 16, 17, 18)

    def run() -> Tensor:
        return confusion_sums(case.x, case.target, ignore_index=IGNORED, impl="triton")

    graph, result = capture(run)
    case.x.copy_(case.x.roll(3, -1))
    graph.replay()
    assert torch.equal(result, run())


@pytest.mark.parametrize(("classes", "mebibytes"), [(4, 2), (32, 9), (105, 12)])
def test_memory_is_independent_of_the_volume(classes: int, mebibytes: int) -> None:
    case = volume(classes, 96, 96, 48)
    x, size = case.x.requires_grad_(), case.x.numel() * 4
    for _ in range(2):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        sums = confusion_sums(x, case.target, ignore_index=IGNORED, impl="triton")
        torch.autograd.grad(sums.sum(), x)
    assert torch.cuda.max_memory_allocated() - before <= size + mebibytes * 2**20


@pytest.mark.parametrize("classes", [2, 9])
def test_more_than_2_to_the_31_values(classes: int, free_memory: int) -> None:
    voxels = 2**31 // classes + 4096
    if free_memory < 8 * classes * voxels:
        pytest.skip("not enough memory on the device")
    x = torch.zeros(1, classes, voxels, dtype=torch.float16, device=DEVICE)
    labels = torch.zeros(1, voxels, dtype=torch.uint8, device=DEVICE)
    labels[:, -5:] = classes - 1
    sums = confusion_sums(x.requires_grad_(), labels, impl="triton")
    assert sums[0, -1, -1].item() == 5
    torch.testing.assert_close(sums[0, -1, :-1], torch.full_like(sums[0, -1, :-1], 5 / classes))
    (grad,) = torch.autograd.grad(sums[0, -1, 0], x)
    assert grad[0, 0].nonzero().flatten().tolist() == list(range(voxels - 5, voxels))
