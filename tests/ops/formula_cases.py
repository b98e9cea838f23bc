"""Formulas that hold every operation a program has, and rows to try them on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from segloss_fast.ops._formula import Program, trace

Formula = Callable[[Tensor, Tensor, Tensor], Tensor]
SHAPE = (3, 2, 5)
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0], dtype=torch.float64)


def _arithmetic(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return (a * b - c / (a + 2) + torch.sub(b, c, alpha=0.5) + (3 - a) - b.reciprocal() / -c).sum()


def _powers(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    c = c + a.square().add(1).rsqrt() + torch.addcmul(a, b, c, value=0.5) + torch.addcdiv(a, b, c)
    root: Tensor = (a.abs() + 0.1).pow(1.7) + b.abs().sqrt() + c.pow(3) + a.square() + b.pow(-1)
    return (root + 2 ** (c / 9) + b.pow(-2)).sum()


def _functions(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return ((a / 4).exp() + (b / 400).expm1() + (c.abs() / 300).log1p() + (a.abs() + 1).log()).sum()


def _comparisons(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    first = torch.where(a < b, 2 * a, c) + torch.where((a >= b) & (c != 0), a * c, b)
    return (
        first + torch.where((a <= 0) | ~(b == 0), b * b, 1) + (a > c) * b + (-a).sign() * c
    ).sum()


def _bounds(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    both = a.clamp_min(0.1) * b.clamp_max(0.2) + c.clamp(-0.5, 0.5)
    return (both + torch.maximum(a, b) * torch.minimum(b, c) + a.masked_fill(b > 0, 2)).sum()


def _reductions(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    means = a.mean(1) * b.sum(1) + c.mean(1, keepdim=True).squeeze(1) - a.mean() * b.amin()
    means = means + torch.where(a.isinf(), 0, a).sum(1)
    some = (a > 0).any(1, keepdim=True) & (b > -1).all(1, keepdim=True) & (c != 0).any()
    return (means + torch.where(some, a, c).sum(1) + b.amax(1) / (a > 0).sum(1).add(1)).sum()


def _pieces(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    joined = torch.cat([a[:, :1], b[:, 1::2], c[:, 3:]], 1)
    stacked = torch.stack([joined, joined * 2], 1)[:, 1]
    first, second = (stacked * stacked).unbind(0)
    parts = (stacked.t() * stacked.t().contiguous()).split([2, 3])[1]
    whole: Tensor = (first * second[:1].expand(5) + first.view(5, 1).squeeze()).sum()
    rest: Tensor = parts.sum()
    return whole + rest


def _in_place(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    room = torch.zeros_like(a)
    room[:, 1:] = a[:, 1:] * b[:, 1:]
    room += 1
    room *= torch.tensor([1.0, 2, 3, 4, 5], dtype=a.dtype)
    weight = c.new_full((5,), 0.25)
    weight[:1] = 0.75
    return (room.masked_fill_(c > 1, 0).neg_() * weight + torch.ones_like(c) * c).sum()


def _single(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return (a.mean().to(torch.float32) * 0.3 + b.sum().float() + c[0, 0].to(torch.float32)) / 7


def _of_a_sum_alone(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return a.sum()


FORMULAS: dict[str, Formula] = {
    "arithmetic": _arithmetic,
    "powers": _powers,
    "functions": _functions,
    "comparisons": _comparisons,
    "bounds": _bounds,
    "reductions": _reductions,
    "pieces": _pieces,
    "in place": _in_place,
    "single": _single,
    "of a sum alone": _of_a_sum_alone,
}


def traced(formula: Formula, shape: tuple[int, int, int] = SHAPE) -> Program:
    """Return the program of a formula, whose argument is WEIGHTS."""

    def whole(rows: Callable[..., Tensor], arguments: Sequence[Tensor]) -> Tensor:
        a, b, c = rows(*shape).unbind()
        return formula(a * arguments[0], b, c)

    return trace(whole, [WEIGHTS])


def expected(formula: Formula, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the formula's value and gradient, by torch."""
    x = rows.clone().requires_grad_()
    a, b, c = x.unbind()
    value = formula(a * WEIGHTS, b, c)
    return value.detach(), torch.autograd.grad(value, x)[0]


def examples() -> Iterator[Tensor]:
    """Yield rows: random ones, then with zeros, infinities and NaN among them."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    yield rows
    yield rows.round()  # zeros, and equal ones
    for strange in (torch.inf, -torch.inf, torch.nan):
        for place in range(3):
            changed = rows.clone()
            changed[place, 0, 1] = strange
            yield changed


def compare(found: tuple[Tensor, Tensor | None], true: tuple[Tensor, Tensor]) -> None:
    """Compare values and gradients, to the last bits of their dtype."""
    for one, other in zip(found, true, strict=True):
        assert one is not None
        rounding = 1e-6 if other.dtype == torch.float32 else 1e-13
        torch.testing.assert_close(one, other, rtol=rounding, atol=rounding, equal_nan=True)
