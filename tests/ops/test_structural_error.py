"""structural_error: its definition against convolutions, the kernels against it."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segloss_fast.ops.structural_error import structural_error
from tests.helpers import impls, relative_l2
from tests.ops.structural_error_cases import check, nearly_equal

IMPLS = impls("structural_error")
by_impl = pytest.mark.parametrize("impl", IMPLS)
SIZES = [(1,), (37,), (1, 1), (8, 21), (1, 6, 5), (5, 1, 9), (9, 8, 17), (23, 4, 2)]
OPTIONS: list[dict[str, Any]] = [
    {"window_size": 3, "sigma": 1.5, "constant": 0.01},
    {"window_size": 7, "sigma": 0.8, "constant": 0.1},
    {"window_size": 1, "sigma": 1.0, "constant": 0.5},
]


def maps(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return values and a target."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.rand(shape, dtype=dtype, generator=generator)
    return x, torch.rand(shape, generator=generator) > 0.6


def solve(x: Tensor, t: Tensor, impl: str, **options: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return the error, and the gradient of a random weighted sum of it."""
    x = x.detach().requires_grad_()
    found = structural_error(x, t, impl=impl, **options)
    generator = torch.Generator().manual_seed(1)
    found.backward(torch.randn(x.shape, dtype=torch.float64, generator=generator).to(x.dtype))
    assert x.grad is not None
    return found.detach(), x.grad


def by_convolution(x: Tensor, t: Tensor, window_size: int, sigma: float, constant: float) -> Tensor:
    """Zhao 2019, with padded convolutions of values and squares."""
    axes, radius = x.dim() - 2, window_size // 2
    line = torch.tensor(
        [math.exp(-(d**2) / (2 * sigma**2)) for d in range(-radius, radius + 1)],
        dtype=torch.float64,
    )
    window = line
    for _ in range(axes - 1):
        window = window[..., None] * line
    window = (window / window.sum())[None, None]
    convolve = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]

    def normalized(x: Tensor) -> Tensor:
        flat = x.reshape(-1, 1, *x.shape[2:])
        mean = convolve(flat, window, padding=radius)
        square = convolve(flat**2, window, padding=radius)
        deviation = (square - mean**2).clamp_min(0).sqrt()
        return ((flat - mean + constant) / (deviation + constant)).view_as(x)

    return (normalized(t.double()) - normalized(x)).abs()


@by_impl
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: str(options["window_size"]))
def test_equals_convolutions(impl: str, size: tuple[int, ...], options: dict[str, Any]) -> None:
    x, t = maps((2, 2, *size))
    found, grad = solve(x, t, impl, **options)
    # Where a window is equal throughout, rounding of squares gives a deviation of 1e-8.
    torch.testing.assert_close(found, by_convolution(x, t, **options), rtol=1e-5, atol=1e-5)
    if options["window_size"] > 1:
        x.requires_grad_()
        true = by_convolution(x, t, **options)
        generator = torch.Generator().manual_seed(1)
        true.backward(torch.randn(x.shape, dtype=x.dtype, generator=generator))
        assert x.grad is not None
        assert relative_l2(grad, x.grad) < 1e-5


@pytest.mark.skipif("native" not in IMPLS, reason="needs the native module")
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: str(options["window_size"]))
def test_kernels_equal_the_reference(size: tuple[int, ...], options: dict[str, Any]) -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        x, t = maps((2, 3, *size), dtype)
        for target in (t, t.to(torch.uint8), torch.rand(t.shape), torch.rand(t.shape).half()):
            found, grad = solve(x, target, "native", first=1, **options)
            true, true_grad = solve(x, target, "reference", first=1, **options)
            torch.testing.assert_close(found, true, rtol=tolerance, atol=tolerance)
            assert (grad - true_grad).norm() < tolerance * max(1, true_grad.norm().item())
            assert (found[:, 0] == 0).all()
            assert (grad[:, 0] == 0).all()


@by_impl
def test_float32_keeps_small_deviations(impl: str) -> None:
    t = torch.ones(1, 1, 9, 9, 9, dtype=torch.bool)
    x = 1 - 1e-4 * torch.rand(t.shape, generator=torch.Generator().manual_seed(0))
    found, grad = solve(x, t, impl, **OPTIONS[0])
    true, true_grad = solve(x.double(), t, impl, **OPTIONS[0])
    inner = (..., slice(2, -2), slice(2, -2), slice(2, -2))  # beyond the border p and t are 0
    assert relative_l2(found[inner], true[inner]) < 3e-3  # of a difference of 1e-4, and 1e-7 known
    assert relative_l2(grad[inner], true_grad[inner]) < 1e-3


@by_impl
def test_equal_maps_have_no_error_and_a_finite_gradient(impl: str) -> None:
    t = torch.zeros(1, 2, 6, 7, dtype=torch.bool)
    t[:, :, 2:4, 1:5] = True
    found, grad = solve(t.float(), t, impl, **OPTIONS[0])
    assert (found == 0).all()
    assert (grad == 0).all()
    found, grad = solve(torch.full(t.shape, 0.5), t, impl, **OPTIONS[0])
    assert grad.isfinite().all()


@by_impl
def test_gradcheck(impl: str) -> None:
    x, t = maps((1, 2, 4, 3, 5))
    x.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: structural_error(x, t, impl=impl, **OPTIONS[0]), (x,), eps=1e-7
    )


@by_impl
def test_layouts(impl: str) -> None:
    x, t = maps((2, 3, 6, 5, 7), torch.float32)
    found, grad = solve(x, t, impl, **OPTIONS[0])
    wide = torch.rand(2, 5, 6, 5, 14)
    wide[:, 1:-1, ..., ::2] = x
    turned = t.transpose(2, 4).contiguous().transpose(2, 4)
    for other in (
        x.to(memory_format=torch.channels_last_3d),
        wide[:, 1:-1, ..., ::2],
        x.transpose(2, 4).contiguous().transpose(2, 4),
    ):
        same, same_grad = solve(other, turned, impl, **OPTIONS[0])
        assert torch.equal(same, found)
        assert torch.equal(same_grad, grad)


@by_impl
@pytest.mark.parametrize("shape", [(0, 2, 4), (2, 0, 3, 3), (1, 2, 3, 0, 5)], ids=str)
def test_empty(impl: str, shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, requires_grad=True)
    found = structural_error(x, torch.empty(shape), impl=impl, **OPTIONS[0])
    assert found.shape == shape
    found.sum().backward()
    assert x.grad is not None


@pytest.mark.skipif("native" not in IMPLS, reason="needs the native module")
def test_any_number_of_threads_gives_the_same_bits() -> None:
    before = torch.get_num_threads()
    x, t = maps((1, 1, 70, 12, 13), torch.float32)
    try:
        results = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            results.append(solve(x, t, "native", **OPTIONS[1]))
    finally:
        torch.set_num_threads(before)
    for found, grad in results[1:]:
        assert torch.equal(found, results[0][0])
        assert torch.equal(grad, results[0][1])


@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
def test_instruction_sets(cpu_capability: ModuleType, capability: str) -> None:
    try:
        cpu_capability.set_cpu_capability(capability)
    except RuntimeError as error:
        pytest.skip(str(error))
    x, t = maps((2, 2, 9, 10, 37), torch.float32)
    for options in OPTIONS[:2]:
        results = zip(
            solve(x, t, "native", **options), solve(x, t, "reference", **options), strict=True
        )
        for found, true in results:
            assert relative_l2(found, true) < 1e-5


@pytest.mark.skipif("native" not in IMPLS, reason="needs the native module")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_operators(layout: torch.memory_format) -> None:
    x, t = maps((2, 3, 5, 6))
    x = x.to(memory_format=layout)
    options = (3, 1.5, 0.01, 1, "native")
    operator = torch.ops.segloss_fast.structural_error.default
    torch.library.opcheck(operator, (x.clone().requires_grad_(), t, *options))
    backward = torch.ops.segloss_fast.structural_error_backward.default
    torch.library.opcheck(backward, (torch.ones_like(x), x, t, *options))


@pytest.mark.skipif("native" not in IMPLS, reason="needs the native module")
def test_double_backward_is_refused() -> None:
    x, t = maps((1, 1, 5, 6))
    x.requires_grad_()
    error = structural_error(x, t, impl="native", **OPTIONS[0])
    (grad,) = torch.autograd.grad(error.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="structural_error has no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize("shape", [(2, 2, 20), (2, 2, 6, 9), (1, 2, 4, 5, 6)], ids=str)
@pytest.mark.parametrize("impl", [impl for impl in IMPLS if impl != "reference"])
def test_small_deviations(impl: str, shape: tuple[int, ...]) -> None:
    """The gradient is as exact as plain PyTorch's, though that of a mean's rounding is large."""
    case = nearly_equal(shape)
    operators, options = torch.ops.segloss_fast, (*case.options, impl)
    found = operators.structural_error(case.values, case.target, *options)
    grad = operators.structural_error_backward(case.grad, case.values, case.target, *options)
    check((found, grad), case)
