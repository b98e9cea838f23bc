"""The definition of region_sums, in plain differentiable PyTorch on any device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from segloss_fast._check import can_hold
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
    w = None if voxel_weight is None else voxel_weight.to(dtype)
    invalid = torch.zeros(2, dtype=row_dtype(x.device), device=x.device)
    if target.dim() == x.dim():
        t = target.to(dtype)
    else:
        t, counted, invalid = one_hot(target, x.shape[1], options.ignore_index, dtype)
        if options.ignore_index is not None:
            x = x.masked_fill(~counted, 0)  # so that a NaN there does not count
            w = counted.to(dtype) if w is None else w.masked_fill(~counted, 0)
    maps = _Maps(x, t, options)
    rows = [
        sum_voxels(maps.term(name) if w is None else w * maps.term(name)) for name in options.terms
    ]
    return torch.stack(rows), invalid


def each(voxel_weights: Sequence[Tensor], inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Return the voxel weight of each input, None where there are none."""
    return voxel_weights or [None] * len(inputs)


def join(found: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the rows of several inputs as one, NaN if any label is out of range, and the labels.

    Args:
        found: Per input the rows ``[K, B, C]``, and how many labels are invalid and the first.
    """
    rows = torch.cat([rows for rows, _ in found], 1)
    labels = torch.stack([invalid for _, invalid in found])  # [inputs, 2]
    count = labels[:, 0].sum()
    # The first input that has some: argmax takes the first of equals.
    first = labels[:, 1].gather(0, (labels[:, 0] > 0).to(torch.uint8).argmax(0, keepdim=True))
    return torch.where(count > 0, torch.nan, rows), torch.cat([count[None], first])


def row_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on devices that have none."""
    return torch.float32 if device.type == "mps" else torch.float64


def one_hot(
    labels: Tensor, classes: int, ignore_index: int | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return one-hot values, which voxels count ``[B, 1, *S]``, and the invalid labels."""
    counted = torch.ones_like(labels, dtype=torch.bool)
    if ignore_index is not None and can_hold(labels.dtype, ignore_index):
        counted = labels != ignore_index
    if classes == 1:
        return (
            ((labels != 0) & counted)[:, None].to(dtype),
            counted[:, None],
            labels.new_zeros(2, dtype=row_dtype(labels.device)),
        )
    index = torch.arange(classes, device=labels.device).view(1, -1, *[1] * (labels.dim() - 1))
    one_hot = (labels[:, None] == index) & counted[:, None]
    bad = counted & ~one_hot.any(1)
    return one_hot.to(dtype), (counted & ~bad)[:, None], count_invalid(labels, bad)


def count_invalid(labels: Tensor, bad: Tensor) -> Tensor:
    """Return ``[2]``: the number of bad labels, and the first (0 where there is none)."""
    values = labels.flatten().to(row_dtype(labels.device))
    end = values.new_zeros(1)
    first = torch.cat([bad.flatten(), end == 0]).to(torch.uint8).argmax(0, keepdim=True)
    return torch.cat([bad.sum(dtype=values.dtype)[None], torch.cat([values, end]).gather(0, first)])


def sum_voxels(voxels: Tensor) -> Tensor:
    """Add up ``[B, C, *S]`` to ``[B, C]``, float64."""
    return voxels.flatten(2).sum(2, dtype=row_dtype(voxels.device))


class _Maps:
    """Computes one term's map at a time; what several terms need is computed once."""

    def __init__(self, x: Tensor, t: Tensor, options: Options) -> None:
        self.x, self.t, self.options = x, t, options
        self._known: dict[str, Tensor] = {}

    def _once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        # Not functools.cached_property: up to Python 3.11 it takes a lock, which breaks the graph.
        if name not in self._known:
            self._known[name] = compute()
        return self._known[name]

    def _activated(self, activation: str) -> Tensor:
        return self._once(activation, lambda: activate(self.x, activation))

    @property
    def p(self) -> Tensor:
        return self._activated(self.options.activation)

    @property
    def ce_p(self) -> Tensor:
        return self._activated(self.options.ce_activation)

    @property
    def ce_q(self) -> Tensor:
        """The complement of ce_p."""
        return (-self.x).sigmoid() if self.options.ce_activation == "sigmoid" else 1 - self.ce_p

    @property
    def log_p(self) -> Tensor:
        log = {
            "softmax": lambda: self.x.log_softmax(1),
            "sigmoid": lambda: logsigmoid(self.x),
            "probabilities": lambda: _clamped_log(self.x),
        }
        return self._once("log_p", log[self.options.ce_activation])

    @property
    def log_q(self) -> Tensor:
        log = {
            "softmax": lambda: _log_one_minus_softmax(self.x),
            "sigmoid": lambda: logsigmoid(-self.x),
            "probabilities": lambda: _clamped_log_one_minus(self.x),
        }
        return self._once("log_q", log[self.options.ce_activation])

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
            return t * _masked(-self.log_p, t)
        if name == "nll_neg":
            return (1 - t) * _masked(-self.log_q, 1 - t)
        if name == "nll_pow":
            return t * power(_masked(-self.log_p, t), gamma)
        if name == "focal":
            return t * power(self.ce_q, gamma) * _masked(-self.log_p, t)
        return (1 - t) * power(self.ce_p, gamma) * _masked(-self.log_q, 1 - t)


def activate(x: Tensor, activation: str) -> Tensor:
    """Return the probabilities."""
    if activation == "softmax":
        return x.softmax(1)
    return x.sigmoid() if activation == "sigmoid" else x


def _masked(value: Tensor, factor: Tensor) -> Tensor:
    """Return the value, or 0 where it is not finite and the factor is 0.

    So a class that an infinite logit masks has no share in the loss.
    """
    return torch.where((factor == 0) & ~value.isfinite(), 0, value)


def power(base: Tensor, gamma: float) -> Tensor:
    """Raise to a power with derivative 0 at 0, where that of a power below one is infinite.

    Below 0, where rounding or smoothing may take a base, the power is that of 0; of NaN it is NaN.
    """
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


def _clamped_log_one_minus(p: Tensor) -> Tensor:
    """The same of 1 - p."""
    exact = p.detach()
    value = torch.where(exact == 1, LOG_MIN, torch.log1p(-exact).clamp_min(LOG_MIN))
    return value - (p - exact) / (1 - exact).clamp_min(PROBABILITY_MIN)
