"""Repeated erosions of error maps, stretched to [0, 1], with a derivative of their own.

Autograd would keep a dozen maps per erosion. Here one map is kept, and backward erodes it again.
The mean over a voxel and its face neighbours is a sum of shifted maps, a fraction of a convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segloss_fast._impl import transforms_active


def erosions(difference: Tensor, alpha: float, iterations: int, share: float) -> Tensor:
    """Return ``sum_i i^alpha e_i`` of ``[B, C, *S]``, e_i after i erosions of ``difference^2``.

    Args:
        difference: float32 or float64, S of one to three dimensions; kept for backward.
        alpha: The exponent.
        iterations: How many erosions there are.
        share: What a voxel and each of its neighbours count in their mean.
    """
    if iterations < 1:
        return torch.zeros_like(difference)
    if not has_own_derivative():
        return _plain(difference, alpha, iterations, share)
    return _Erosions.apply(  # type: ignore[no-any-return,no-untyped-call]
        difference, alpha, iterations, share
    )


def has_own_derivative() -> bool:
    """Whether ``erosions`` has it: neither torch.compile nor torch.func takes one of one's own."""
    return not (torch.compiler.is_compiling() or transforms_active())


def _plain(difference: Tensor, alpha: float, iterations: int, share: float) -> Tensor:
    """Return the same, whose derivatives are torch's."""
    total, e = torch.zeros_like(difference), difference.square()
    for i in range(1, iterations + 1):
        e = _stretch(_erode(e, share))
        total = total + e * float(i) ** alpha
    return total


def _erode(error: Tensor, share: float) -> Tensor:
    """Return the mean over face neighbours minus one half, cut off at 0."""
    total = error
    for axis in range(2, error.dim()):
        others, faster = error.shape[axis] - 1, [0, 0] * (error.dim() - 1 - axis)
        if others:
            total = total + F.pad(error.narrow(axis, 0, others), [*faster, 1, 0])
            total = total + F.pad(error.narrow(axis, 1, others), [*faster, 0, 1])
    mean = total * share
    # Not clamp_min, whose derivative at the bound depends on torch's version.
    return (mean - 0.5).masked_fill(mean < 0.5, 0)


def _stretch(error: Tensor) -> Tensor:
    """Return the values of each item and class stretched to [0, 1], unless all are equal."""
    axes = list(range(2, error.dim()))
    low, high = -(-error).amax(axes, keepdim=True), error.amax(axes, keepdim=True)
    varies = high != low
    return torch.where(varies, (error - low) / torch.where(varies, high - low, 1), error)


class _Erosions(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        difference: Tensor,
        alpha: float,
        iterations: int,
        share: float,
    ) -> Tensor:
        ctx.save_for_backward(difference)
        ctx.options = alpha, iterations, share
        total, e = torch.zeros_like(difference), difference.square()
        for i in range(1, iterations + 1):
            e = _eroded(e, share)[0]
            total.add_(e, alpha=float(i) ** alpha)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        (difference,) = ctx.saved_tensors
        alpha, iterations, share = ctx.options
        if torch.is_grad_enabled():  # a second derivative may follow
            total = _plain(difference, *ctx.options)
            grad = torch.autograd.grad(total, difference, grads[0], create_graph=True)[0]
        elif transforms_active():  # many gradients at once, which nothing is added to in place
            with torch.enable_grad():
                leaf = difference.detach().requires_grad_()
                total = _plain(leaf, *ctx.options)
            grad = torch.autograd.grad(total, leaf, grads[0])[0]
        else:
            steps = [_eroded(difference.square(), share)]
            for _ in range(1, iterations):
                steps.append(_eroded(steps[-1][0], share))
            grad = torch.zeros_like(difference)
            for i in range(iterations, 0, -1):
                grad.add_(grads[0], alpha=float(i) ** alpha)
                grad = _backward_of_eroded(grad, share, *steps.pop())
            grad.mul_(difference).mul_(2)
        return grad, None, None, None


def _eroded(error: Tensor, share: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the next error, and the least value and the span that it was stretched from.

    The last says of which items and classes all values are equal: 0 and 1 stand for both then.
    """
    e = _sums(error).mul_(share).sub_(0.5).relu_()
    low, high = e.flatten(2).amin(2), e.flatten(2).amax(2)
    constant = low == high
    shape = (*low.shape, *[1] * (error.dim() - 2))
    low, span = low.masked_fill(constant, 0), (high - low).masked_fill(constant, 1)
    low, span, constant = low.view(shape), span.view(shape), constant.view(shape)
    return e.sub_(low).div_(span), low, span, constant


def _sums(x: Tensor) -> Tensor:
    """Return the sums over a voxel and its face neighbours, 0 beyond the border."""
    total = x.clone(memory_format=torch.contiguous_format)
    for axis in range(2, x.dim()):
        others = x.shape[axis] - 1
        total.narrow(axis, 1, others).add_(x.narrow(axis, 0, others))
        total.narrow(axis, 0, others).add_(x.narrow(axis, 1, others))
    return total


def _backward_of_eroded(
    grad: Tensor, share: float, e: Tensor, low: Tensor, span: Tensor, constant: Tensor
) -> Tensor:
    """Return the gradient of the error, given that of the next; that is overwritten.

    Args:
        grad: ``[B, C, *S]``.
        share: As in :func:`erosions`.
        e: The next error, likewise.
        low: As from :func:`_eroded`.
        span: Likewise.
        constant: Likewise.
    """
    axes = list(range(2, e.dim()))
    # The largest value, and the least where it was not cut off, have a gradient through the stretch
    # too, of which all voxels that have it get an equal part.
    total = grad.sum(axes, keepdim=True)
    of_high = (grad * e).sum(axes, keepdim=True)
    _take(grad, e == 1, of_high.masked_fill(constant, 0), axes)
    uncut = low != 0
    if e.device.type != "cpu" or uncut.any():
        _take(grad, e == 0, (total - of_high).masked_fill(~uncut, 0), axes)
        cut = (e == 0) & ~uncut
    else:
        cut = e == 0
    return _sums(grad.masked_fill_(cut, 0)).mul_(share / span)


def _take(grad: Tensor, where: Tensor, amount: Tensor, axes: list[int]) -> None:
    """Subtract from the gradient, in equal parts where told."""
    parts = where.to(grad.dtype)
    number = parts.sum(axes, keepdim=True).clamp_min(1)
    grad.addcmul_(parts, amount / number, value=-1)
