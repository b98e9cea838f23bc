"""What the interpreted tests share: options of a call, its result, and the truth."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast.ops.region_sums import reference, triton_launch
from segloss_fast.ops.region_sums.options import TERMS, Options
from tests.helpers import relative_l2, relative_max

EPSILON = torch.finfo(torch.float32).eps
LOSS_TERMS = ("tp", "pred", "target", "nll", "focal_neg")


def options(
    terms: tuple[str, ...] = TERMS,
    activation: str = "softmax",
    ce_activation: str | None = None,
    gamma: float = 2.0,
    ignore_index: int | None = None,
) -> Options:
    return Options(terms, activation, ce_activation or activation, gamma, ignore_index)


def factors_of(rows: Tensor) -> Tensor:
    """Return the gradient of a random combination of the rows."""
    return torch.randn(rows.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def ours(x: Tensor, target: Tensor, weight: Tensor | None, o: Options) -> tuple[Tensor, Tensor]:
    rows, _ = triton_launch.forward(x, target, weight, o)
    return rows, triton_launch.backward(factors_of(rows), x, target, weight, o)


def truth(x: Tensor, target: Tensor, weight: Tensor | None, o: Options) -> tuple[Tensor, Tensor]:
    """Return rows and gradient in float64."""
    x = x.detach().double().requires_grad_()
    rows, _ = reference.forward(x, target, None if weight is None else weight.double(), o)
    if not rows.requires_grad:  # sums of the target alone
        return rows, torch.zeros_like(x)
    (grad,) = torch.autograd.grad((rows * factors_of(rows)).sum(), x)
    return rows.detach(), grad


def check(
    x: Tensor, target: Tensor, weight: Tensor | None, o: Options, tolerance: float = 10 * EPSILON
) -> tuple[Tensor, Tensor]:
    rows, grad = ours(x, target, weight, o)
    true_rows, true_grad = truth(x, target, weight, o)
    for name, row, true_row in zip(o.terms, rows, true_rows, strict=True):
        assert relative_max(row, true_row) < tolerance, name
    assert grad.dtype == x.dtype
    assert grad.stride() == torch.empty_like(x).stride()
    # The interpreter truncates to bfloat16, where a GPU rounds.
    half = 1.0 if x.dtype == torch.bfloat16 else 0.5
    assert relative_l2(grad, true_grad) < max(half * torch.finfo(x.dtype).eps, 5 * EPSILON)
    return rows, grad
