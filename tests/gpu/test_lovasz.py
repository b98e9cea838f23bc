"""lovasz on a CUDA device: millions of voxels, synchronisation, graphs, memory, offsets.

The contract, tests/ops/test_lovasz*.py, tries every option there.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.measure.cuda import capture
from segloss_fast import lovasz, lovasz_counts
from tests.gpu.device import DEVICE, KERNELS, no_synchronisation, require
from tests.ops.lovasz_samples import ACTIVATIONS

METHODS = ("histogram", "sort")
by_kernel = pytest.mark.parametrize("impl", KERNELS)
by_method = pytest.mark.parametrize("method", METHODS)
by_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


def need(impl: str, method: str, dtype: torch.dtype = torch.float32) -> None:
    require(impl, "lovasz")
    if impl == "triton" and (method == "sort" or dtype == torch.float64):
        pytest.skip("the Triton kernels have neither a sort nor float64")


def run(x: Tensor, target: Tensor, **options: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return loss and cross-entropy ``[2, I, C]``, and the gradient of a combination of them."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    sums = lovasz(x, target, cross_entropy=True, **options)
    assert sums.cross_entropy is not None
    values = torch.stack([sums.loss.double(), sums.cross_entropy.double()])
    generator = torch.Generator().manual_seed(3)
    weights = torch.rand(values.shape, generator=generator, dtype=torch.float64).to(x.device)
    (grad,) = torch.autograd.grad((values * weights).sum(), x)
    return values.detach(), grad


@by_kernel
@by_activation
def test_crowded_and_saturated(impl: str, activation: str) -> None:
    """Millions of voxels in few bins: exact counts, whoever adds them."""
    need(impl, "histogram")
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([[0.1, -0.7, 0.4], [2.3, 0.2, -1.1], [-20.0, 31.0, 0.5]])
    for shares in ((1.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.02, 0.0, 0.98)):
        weights = torch.tensor(shares)
        choice = torch.multinomial(weights, 3_000_000, replacement=True, generator=generator)
        x = logits[choice].T[None].contiguous()
        target = torch.arange(x.shape[2])[None] % 7 % 3
        exact = lovasz_counts(x.double(), target, activation=activation, impl="reference")
        ours = lovasz_counts(x.to(DEVICE), target.to(DEVICE), activation=activation, impl=impl)
        assert torch.equal(ours.cpu(), exact)


def problem(classes: int = 4, *size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(DEVICE).manual_seed(0)
    size = size or (40, 64, 64)
    x = 4 * torch.randn((2, classes, *size), generator=generator, device=DEVICE)
    target = torch.randint(0, classes, (2, *size), generator=generator, device=DEVICE)
    return x, target


@by_kernel
@by_method
@pytest.mark.parametrize("classes", [2, 14, 20])
def test_repeated_bits(impl: str, method: str, classes: int) -> None:
    need(impl, method)
    x, target = problem(classes)
    values, grad = run(x, target, impl=impl, method=method)
    for _ in range(3):
        again, grad_again = run(x, target, impl=impl, method=method)
        assert torch.equal(again, values)
        assert torch.equal(grad_again, grad)


def step(x: Tensor, target: Tensor, impl: str, method: str) -> tuple[Tensor, Tensor]:
    loss = lovasz(x, target, impl=impl, method=method).loss
    (grad,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach(), grad


@by_kernel
@by_method
@pytest.mark.parametrize("classes", [3, 20])
def test_the_host_never_waits(impl: str, method: str, classes: int) -> None:
    need(impl, method)
    x, target = problem(classes)
    x.requires_grad_()
    step(x, target, impl, method)  # compiles
    with no_synchronisation():
        step(x, target, impl, method)


@by_kernel
@by_method
def test_a_cuda_graph_replays_it(impl: str, method: str) -> None:
    need(impl, method)
    x, target = problem()
    x.requires_grad_()
    graph, (loss, grad) = capture(lambda: step(x, target, impl, method))
    for shift in (1, 5):
        with torch.no_grad():
            x.copy_(x.roll(shift, -1))
        graph.replay()
        again, grad_again = step(x, target, impl, method)
        assert torch.equal(loss, again)
        assert torch.equal(grad, grad_again)


@by_kernel
@pytest.mark.parametrize("classes", [4, 14, 33])
def test_memory_of_the_histogram(impl: str, classes: int) -> None:
    """Counters and tables, and one percent of the input."""
    need(impl, "histogram")
    x, target = problem(classes, 96, 96, 96)
    x.requires_grad_()
    step(x, target, impl, "histogram")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(x, target, impl, "histogram")
    size = x.numel() * x.element_size()
    bins = lovasz_counts(x[:, :, :1], target[:, :1], impl=impl).numel() // 2
    above = torch.cuda.max_memory_allocated() - before - size
    assert above <= 2**20 + size / 100 + 80 * bins


@by_kernel
def test_more_than_2_to_the_31_voxels(impl: str, free_memory: int) -> None:
    """Foreground in the last voxels only, so a wrapped offset or counter shows."""
    need(impl, "histogram")
    voxels = 2**31 + 4096
    if free_memory < 6 * voxels:
        pytest.skip("not enough memory on the device")
    x = torch.full((1, 1, voxels), -1.0, dtype=torch.float16, device=DEVICE)
    target = torch.zeros((1, voxels), dtype=torch.uint8, device=DEVICE)
    target[0, -100:], x[0, 0, -50:] = 1, 2.0
    counts = lovasz_counts(x, target, activation="sigmoid", impl=impl)[0, 0]
    assert counts.sum(-1).tolist() == [voxels - 100, 100]
    assert sorted(counts[1][counts[1] > 0].tolist()) == [50, 50]
    assert counts[0].count_nonzero() == 1
