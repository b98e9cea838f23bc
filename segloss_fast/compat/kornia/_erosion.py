"""Repeated erosions of error maps, stretched to [0, 1], with a derivative of their own.

Autograd would keep a dozen maps per erosion. Here the error is kept, and backward erodes it again.
The mean over a voxel and its face neighbours is a sum of shifted maps, a fraction of a convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segloss_fast._impl import transforms_active
from segloss_fast.losses.hausdorff_er import erode, stretch


def erosions(error: Tensor, alpha: float, iterations: int) -> Tensor:
    """Return ``sum_i i^alpha e_i`` of ``[B, C, *S]``, e_i the error after i erosions.

    Args:
        error: e_0, float32 or float64, S of two or three dimensions.
        alpha: The exponent.
        iterations: How many erosions there are.
    """
    if iterations < 1:
        return torch.zeros_like(error)
    if torch.compiler.is_compiling() or transforms_active():
        return _plain(error, alpha, iterations)  # neither takes a derivative of one's own
    return _Erosions.apply(error, alpha, iterations)  # type: ignore[no-any-return,no-untyped-call]


def _plain(error: Tensor, alpha: float, iterations: int) -> Tensor:
    """Return the same, whose derivatives are torch's."""
    total, e = torch.zeros_like(error), error.flatten(0, 1)[:, None]
    for i in range(1, iterations + 1):
        e = stretch(erode(e))
        total = total + e.view_as(error) * float(i) ** alpha
    return total


def share(axes: int) -> float:
    """Return what a neighbour counts: one of so many, of a float32 as kornia has it."""
    return float(torch.tensor(1 / (2 * axes + 1), dtype=torch.float32))


class _Erosions(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, error: Tensor, alpha: float, iterations: int) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(error)
        ctx.options = alpha, iterations
        total, e = torch.zeros_like(error), error
        for i in range(1, iterations + 1):
            e = _eroded(e)[0]
            total.add_(e, alpha=float(i) ** alpha)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (error,) = ctx.saved_tensors
        alpha, iterations = ctx.options
        if torch.is_grad_enabled():  # a second derivative may follow
            total = _plain(error, alpha, iterations)
            return *torch.autograd.grad(total, error, grads[0], create_graph=True), None, None
        steps = [_eroded(error)]
        for _ in range(1, iterations):
            steps.append(_eroded(steps[-1][0]))
        grad = torch.zeros_like(error)
        for i in range(iterations, 0, -1):
            grad.add_(grads[0], alpha=float(i) ** alpha)
            grad = _backward_of_eroded(grad, *steps.pop())
        return grad, None, None


def _eroded(error: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the next error, and the least value and the span that it was stretched from.

    The last says of which items and classes all values are equal: 0 and 1 stand for both then.
    """
    e = _sums(error).mul_(share(error.dim() - 2)).sub_(0.5).relu_()
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
    grad: Tensor, e: Tensor, low: Tensor, span: Tensor, constant: Tensor
) -> Tensor:
    """Return the gradient of the error, given that of the next; that is overwritten.

    Args:
        grad: ``[B, C, *S]``.
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
    return _sums(grad.masked_fill_(cut, 0)).mul_(share(len(axes)) / span)


def _take(grad: Tensor, where: Tensor, amount: Tensor, axes: list[int]) -> None:
    """Subtract from the gradient, in equal parts where told."""
    parts = where.to(grad.dtype)
    number = parts.sum(axes, keepdim=True).clamp_min(1)
    grad.addcmul_(parts, amount / number, value=-1)
