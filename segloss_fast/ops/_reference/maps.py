"""Maps of probabilities and their logarithms in plain differentiable PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

LOG_MIN = -100.0  # torch's binary cross-entropy clamps log 0 to this,
PROBABILITY_MIN = 1e-12  # and a denominator of its gradient to this


def activate(x: Tensor, activation: str) -> Tensor:
    """Return the probabilities."""
    if activation == "softmax":
        return x.softmax(1)
    return x.sigmoid() if activation == "sigmoid" else x


def finite_or_masked(value: Tensor, factor: Tensor) -> Tensor:
    """Return the value, or 0 where it is not finite and the factor is 0.

    So a class that an infinite logit masks has no share in the loss.
    """
    return torch.where((factor == 0) & ~value.isfinite(), 0, value)


def power(base: Tensor, gamma: float) -> Tensor:
    """Raise to a power with derivative 0 at 0, where that of a power below one is infinite.

    Below 0, where rounding or smoothing may take a base, the power is that of 0; of NaN it is NaN.
    """
    if gamma == 2:
        return base.clamp_min(0).square()
    positive = base > 0
    at_zero = torch.where(base.isnan(), base, 1.0 if gamma == 0 else 0.0)
    return torch.where(positive, torch.where(positive, base, 1).pow(gamma), at_zero)


def log_one_minus_softmax(x: Tensor) -> Tensor:
    """Return log(1 - p), from the other classes where p may be near 1."""
    top = torch.zeros_like(x, dtype=torch.bool).scatter_(1, x.argmax(1, keepdim=True), True)
    others = x.masked_fill(top, -torch.inf).logsumexp(1, keepdim=True)
    at_most_half = torch.where(top, 0, x.softmax(1))
    return torch.where(top, others - x.logsumexp(1, keepdim=True), torch.log1p(-at_most_half))


def clamped_log(p: Tensor) -> Tensor:
    """Log clamped to -100, with the derivative 1 / max(p, 1e-12), and its derivatives."""
    exact, small = p.detach(), p < PROBABILITY_MIN
    value = torch.where(exact == 0, LOG_MIN, exact.log().clamp_min(LOG_MIN))
    straight = value + (p - exact) / PROBABILITY_MIN
    return torch.where(small, straight, p.masked_fill(small, 1).log())


def clamped_log_one_minus(p: Tensor) -> Tensor:
    """The same of 1 - p."""
    exact, large = p.detach(), 1 - p < PROBABILITY_MIN
    value = torch.where(exact == 1, LOG_MIN, torch.log1p(-exact).clamp_min(LOG_MIN))
    straight = value - (p - exact) / PROBABILITY_MIN
    return torch.where(large, straight, torch.log1p(-p.masked_fill(large, 0)))
