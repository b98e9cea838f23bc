"""The definition of region_sums, in plain differentiable PyTorch on any device."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from segloss_fast.ops.region_sums.options import Options

LOG_MIN = -100.0  # torch's binary cross-entropy clamps log 0 to this,
PROBABILITY_MIN = 1e-12  # and a denominator of its gradient to this


def forward(
    input: Tensor, target: Tensor, voxel_weight: Tensor | None, options: Options
) -> tuple[Tensor, Tensor]:
    """Return the rows ``[K, B, C]`` and ``[2]``: the number of labels out of range, and the first.

    Args:
        input: ``[B, C, *S]``.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``, or None.
        options: What to compute.
    """
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    x = input.to(dtype)
    w = torch.ones((), dtype=dtype, device=x.device)
    if voxel_weight is not None:
        w = voxel_weight.to(dtype)
    invalid = torch.zeros(2, dtype=row_dtype(x.device), device=x.device)
    if target.dim() == x.dim():
        t = target.to(dtype)
    else:
        t, counted, invalid = _one_hot(target, x.shape[1], options.ignore_index, dtype)
        if options.ignore_index is not None:
            x = x.masked_fill(~counted, 0)  # so that a NaN there does not count
            w = w.masked_fill(~counted, 0) if voxel_weight is not None else counted.to(dtype)
    maps = _Maps(x, t, options)
    rows = [_sum(w * maps.term(name), x) for name in options.terms]
    return torch.stack(rows), invalid


def row_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on devices that have none."""
    return torch.float32 if device.type == "mps" else torch.float64


def _one_hot(
    labels: Tensor, classes: int, ignore_index: int | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return one-hot values, which voxels count ``[B, 1, *S]``, and the invalid labels."""
    counted = torch.ones_like(labels, dtype=torch.bool)
    if ignore_index is not None:
        counted = labels != ignore_index
    if classes == 1:
        return (
            ((labels != 0) & counted)[:, None].to(dtype),
            counted[:, None],
            labels.new_zeros(2, dtype=row_dtype(labels.device)),
        )
    index = torch.arange(classes, device=labels.device).view(1, -1, *[1] * (labels.dim() - 1))
    one_hot = (labels[:, None] == index) & counted[:, None]
    bad = (counted & ~one_hot.any(1)).flatten()
    first = bad.to(torch.uint8).argmax() if bad.numel() else 0
    values = torch.where(bad, labels.flatten().to(row_dtype(labels.device)), 0)
    invalid = torch.stack(
        [bad.sum(dtype=values.dtype), values[first] if bad.numel() else values.sum()]
    )
    return one_hot.to(dtype), (counted & ~bad.view_as(counted))[:, None], invalid


def _sum(voxels: Tensor, like: Tensor) -> Tensor:
    return voxels.expand_as(like).flatten(2).sum(2, dtype=row_dtype(like.device))


class _Maps:
    """Computes one term's map at a time; what several terms need is computed once."""

    def __init__(self, x: Tensor, t: Tensor, options: Options) -> None:
        self.x, self.t, self.options = x, t, options

    @cached_property
    def p(self) -> Tensor:
        return _activate(self.x, self.options.activation)

    @cached_property
    def ce_p(self) -> Tensor:
        if self.options.ce_activation == self.options.activation:
            return self.p
        return _activate(self.x, self.options.ce_activation)

    @cached_property
    def ce_q(self) -> Tensor:
        """The complement of ce_p."""
        return (-self.x).sigmoid() if self.options.ce_activation == "sigmoid" else 1 - self.ce_p

    @cached_property
    def log_p(self) -> Tensor:
        activation = self.options.ce_activation
        if activation == "softmax":
            return self.x.log_softmax(1)
        return logsigmoid(self.x) if activation == "sigmoid" else _clamped_log(self.x)

    @cached_property
    def log_q(self) -> Tensor:
        activation = self.options.ce_activation
        if activation == "softmax":
            return _log_one_minus_softmax(self.x)
        return logsigmoid(-self.x) if activation == "sigmoid" else _clamped_log(1 - self.x)

    def term(self, name: str) -> Tensor:
        t = self.t
        if name.startswith(("nll", "focal")):
            return self._log_term(name)
        if name == "weight":
            return torch.ones_like(t)
        if name in ("target", "target_sq"):
            return t if name == "target" else t * t
        if name in ("pred", "pred_sq"):
            return self.p if name == "pred" else self.p * self.p
        if name == "tp":
            return self.p * t
        if name == "abs_err":
            return (self.p - t).abs()
        squared = (self.p - t).square()
        return t * squared if name == "sq_err_pos" else squared

    def _log_term(self, name: str) -> Tensor:
        t, gamma = self.t, self.options.gamma
        if name == "nll_all":
            return -self.log_p
        if name == "nll":
            return _product(t, -self.log_p)
        if name == "nll_neg":
            return _product(1 - t, -self.log_q)
        if name == "nll_pow":
            return _product(t, _power(-self.log_p, gamma))
        if name == "focal":
            return _product(t, -_power(self.ce_q, gamma) * self.log_p)
        return _product(1 - t, -_power(self.ce_p, gamma) * self.log_q)


def _activate(x: Tensor, activation: str) -> Tensor:
    if activation == "softmax":
        return x.softmax(1)
    return x.sigmoid() if activation == "sigmoid" else x


def _product(factor: Tensor, value: Tensor) -> Tensor:
    """Multiply; 0 times infinity is 0, so that a class masked by its logit has no share."""
    return factor * torch.where((factor == 0) & ~value.isfinite(), 0, value)


def _power(base: Tensor, gamma: float) -> Tensor:
    """Raise to a power with derivative 0 at 0, where that of a power below one is infinite."""
    positive = base > 0
    at_zero = torch.where(base.isnan(), base, 1.0 if gamma == 0 else 0.0)
    return torch.where(positive, torch.where(positive, base, 1).pow(gamma), at_zero)


def _log_one_minus_softmax(x: Tensor) -> Tensor:
    """Return log(1 - p), from the other classes where p may be near 1."""
    top = torch.zeros_like(x, dtype=torch.bool).scatter_(1, x.argmax(1, keepdim=True), True)
    others = x.masked_fill(top, -torch.inf).logsumexp(1, keepdim=True)
    at_most_half = torch.where(top, 0, x.softmax(1))
    return torch.where(top, others - x.logsumexp(1, keepdim=True), torch.log1p(-at_most_half))


def _clamped_log(p: Tensor) -> Tensor:
    """Log clamped to -100, with the derivative 1 / max(p, 1e-12)."""
    value = torch.where(p == 0, LOG_MIN, p.detach().log().clamp_min(LOG_MIN))
    return value + (p - p.detach()) / p.detach().clamp_min(PROBABILITY_MIN)
