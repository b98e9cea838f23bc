"""The sum of p squared over that of p, in whose derivative one p and the divisor are constants."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LEAST = 1e-8  # the authors' least divisor


def detached_ratio(square: Tensor, total: Tensor) -> Tensor:
    """Return ``sum p^2 / sum p``, whose derivative in p is ``p / sum p``.

    That of second order is the derivative of ``p / sum p``, which autograd does not find where the
    constants are detached tensors. Compilers take those: they have no second derivatives.

    Args:
        square: The sums of squares.
        total: The sums, of the same shape.
    """
    if torch.compiler.is_compiling():
        return (square + square.detach()) / 2 / total.detach().clamp_min(LEAST)
    return _Ratio.apply(square, total)  # type: ignore[no-any-return,no-untyped-call]


class _Ratio(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(square: Tensor, total: Tensor) -> Tensor:
        return square / total.clamp_min(LEAST)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:  # noqa: ANN401
        (total,) = ctx.saved_tensors
        return grads[0] / (2 * total.clamp_min(LEAST)), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:  # noqa: ANN401
        (total,) = ctx.saved_tensors
        found: Tensor = tangents[0] / (2 * total.clamp_min(LEAST))
        return found
