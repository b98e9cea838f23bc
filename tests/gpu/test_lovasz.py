"""lovasz on a CUDA device: values and gradients against the reference in float64 on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.measure.cuda import capture
from segloss_fast import lovasz, lovasz_counts
from segloss_fast._check import FLOATING, INTEGER
from tests.gpu.device import DEVICE, KERNELS, free_memory, no_synchronisation, require
from tests.helpers import relative_l2, relative_max
from tests.ops.lovasz_cuda import sample
from tests.ops.lovasz_samples import ACTIVATIONS, KINDS
from tests.ops.one_class_cases import IGNORED, soft_mask

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


def compare(impl: str, x: Tensor, target: Tensor, **options: Any) -> None:  # noqa: ANN401
    """Compare with the same method's reference, on tensors laid out alike."""
    true_values, true_grad = run(x.double(), target, impl="reference", **options)
    there = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=DEVICE).copy_(x)
    values, grad = run(there, target.to(DEVICE), impl=impl, **options)
    assert grad.dtype == x.dtype
    compute = torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32).eps
    # The histogram's offsets of 16 bits stand for 256 of them; a bin is 2^-7 of the error wide.
    loss = 128.5 * 2.0**-23 + compute if options["method"] == "histogram" else 5 * compute
    assert relative_max(values[0].cpu(), true_values[0]) < loss
    assert relative_max(values[1].cpu(), true_values[1]) < 10 * compute
    bound = max(0.5 * torch.finfo(x.dtype).eps, 5 * compute)
    assert relative_l2(grad.cpu(), true_grad) < bound


@by_kernel
@by_method
@by_activation
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_image", [False, True])
def test_every_option(impl: str, method: str, activation: str, kind: str, per_image: bool) -> None:
    need(impl, method)
    x, target, ignored = sample((2, 3, 12, 16, 20), kind, activation, torch.float32)
    options: dict[str, Any] = {"activation": activation, "per_image": per_image}
    compare(impl, x, target, method=method, ignore_index=ignored, **options)


@by_kernel
@by_method
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("classes", [1, 2, 4, 8, 14, 15, 33, 105])
def test_classes_and_dtypes(impl: str, method: str, dtype: torch.dtype, classes: int) -> None:
    need(impl, method, dtype)
    for activation in ACTIVATIONS:
        if classes == 1 and activation == "softmax":
            continue
        for size in ((9, 16, 16), (7, 11, 13)):
            x, target, _ = sample((2, classes, *size), "labels", activation, dtype)
            compare(impl, x, target, method=method, activation=activation)


@by_kernel
@by_method
@pytest.mark.parametrize("classes", [3, 18])
@pytest.mark.parametrize("layout", ["channels_last", "sliced"])
def test_layouts(impl: str, method: str, classes: int, layout: str) -> None:
    need(impl, method)
    x, target, _ = sample((2, classes, 5, 16, 24), "labels", "softmax", torch.float32)
    if layout == "channels_last":
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    else:
        x = torch.stack([x, x], -1).flatten(-2)[..., ::2]
    compare(impl, x, target, method=method)


@by_kernel
@pytest.mark.parametrize("dtype", INTEGER, ids=str)
def test_labels_of_any_dtype(impl: str, dtype: torch.dtype) -> None:
    need(impl, "histogram")
    x, target, _ = sample((2, 2, 9, 16, 16), "labels", "softmax", torch.float32)
    there = x.to(DEVICE)
    counts = lovasz_counts(there, target.to(DEVICE), impl=impl)
    assert torch.equal(lovasz_counts(there, target.to(dtype).to(DEVICE), impl=impl), counts)


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


@by_kernel
@by_method
def test_labels_out_of_range_make_the_loss_nan(impl: str, method: str) -> None:
    need(impl, method)
    x, target, _ = sample((1, 3, 4000), "labels", "softmax", torch.float32)
    target[0, 77] = 9
    assert lovasz(x.to(DEVICE), target.to(DEVICE), method=method, impl=impl).loss.isnan().all()


@by_kernel
@by_method
@pytest.mark.parametrize("activation", ["sigmoid", "hinge"])
def test_values_of_one_class(impl: str, method: str, activation: str) -> None:
    """They are the labels of what is above one half; others than from 0 to 1 make the loss NaN."""
    need(impl, method)
    case = soft_mask((33, 65))
    labels = torch.where(case.kept, (case.values > 0.5).long(), IGNORED)[:, 0].to(DEVICE)
    x, target = case.input.float().to(DEVICE), case.target.to(DEVICE)
    options: dict[str, Any] = {"activation": activation, "method": method, "impl": impl}
    wanted = run(x, labels, ignore_index=IGNORED, **options)
    for values in (target, target[:, 0]):
        found = run(x, values, ignore_index=IGNORED, **options)
        assert all(map(torch.equal, found, wanted))
    assert lovasz(case.clean.float().to(DEVICE), target, **options).loss.isnan().all()


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
def test_more_than_2_to_the_31_voxels(impl: str) -> None:
    """Foreground in the last voxels only, so a wrapped offset or counter shows."""
    need(impl, "histogram")
    voxels = 2**31 + 4096
    if free_memory() < 6 * voxels:
        pytest.skip("not enough memory on the device")
    x = torch.full((1, 1, voxels), -1.0, dtype=torch.float16, device=DEVICE)
    target = torch.zeros((1, voxels), dtype=torch.uint8, device=DEVICE)
    target[0, -100:], x[0, 0, -50:] = 1, 2.0
    counts = lovasz_counts(x, target, activation="sigmoid", impl=impl)[0, 0]
    assert counts.sum(-1).tolist() == [voxels - 100, 100]
    assert sorted(counts[1][counts[1] > 0].tolist()) == [50, 50]
    assert counts[0].count_nonzero() == 1
