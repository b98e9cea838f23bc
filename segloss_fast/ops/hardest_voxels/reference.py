"""The definition of hardest_voxels, in plain PyTorch on any device, a class at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from segloss_fast._impl import transforms_active
from segloss_fast.ops._voxels.labels import counted_voxels, is_class
from segloss_fast.ops._voxels.maps import LOG_MIN, row_dtype


@dataclass(frozen=True)
class Rule:
    """Which voxels are the hardest.

    Attributes:
        k: How many of the voxels that count, in percent, in (0, 100]; at least one.
        activation: ``"softmax"``, ``"sigmoid"`` or ``"probabilities"``.
        first: Classes below it have no share in the cross-entropy.
        class_weight: ``[C]``, what each class's share is multiplied by, or None.
        ignore_index: Voxels with this class index, or value of one class, do not count.
    """

    k: float
    activation: str
    first: int = 0
    class_weight: Tensor | None = None
    ignore_index: int | None = None


def forward(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    rule: Rule,
    add: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Return the weights ``[B, 1, *S]`` and their sums ``[B]``.

    Args:
        input: ``[B, C, *S]``.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``, or None.
        rule: How many there are, and of what cross-entropy.
        add: Adds counts over ranks, or None.
    """
    loss, counts = cross_entropy(input, target, voxel_weight, rule)
    add = add or (lambda count: count)
    keys = _keys(loss.masked_fill(~counts, -torch.inf))
    counted = add(counts.sum())
    share = (counted.to(row_dtype(input.device)) * rule.k / 100).floor().long()
    wanted = torch.minimum(share.clamp_min(1), counted)
    threshold = _largest(keys, wanted, add)
    above, ties = keys > threshold, (keys == threshold) & counts
    left = (wanted - add(above.sum())) / add(ties.sum()).clamp_min(1)
    weights = torch.where(ties, left.to(loss.dtype), above.to(loss.dtype))
    # Where nothing counts, nothing was wanted.
    weights = torch.where(counted > 0, weights, 0)
    return weights[:, None], weights.flatten(1).sum(1, dtype=row_dtype(input.device))


def cross_entropy(
    input: Tensor, target: Tensor, voxel_weight: Tensor | None, rule: Rule
) -> tuple[Tensor, Tensor]:
    """Return each voxel's cross-entropy ``[B, *S]``, and whether it counts.

    Softmax, and probabilities of more than one class: ``-sum_c v_c w_c t_c log p_c``, w the voxel
    weight and v the class weight; a voxel counts where any ``w_c t_c`` is not 0. Otherwise
    ``-sum_c v_c w_c (t_c log p_c + (1 - t_c) log(1 - p_c))``, where any ``w_c`` is not 0.
    """
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    classes = input.shape[1]
    dense = target.dim() == input.dim()
    categorical = rule.activation == "softmax" or (
        rule.activation == "probabilities" and classes > 1
    )
    counted = counted_voxels(input, target, rule.ignore_index)
    ignored = None if counted is None else ~counted[:, 0]
    log = _Logarithms(input, dtype, ignored, rule.activation)
    total = torch.zeros(input.shape[:1] + input.shape[2:], dtype=dtype, device=input.device)
    counts = torch.zeros_like(total, dtype=torch.bool)
    for c in range(rule.first, classes):
        t = (target[:, c] if dense else is_class(target, c, classes)).to(dtype)
        log_p, log_q = log.of(c)
        loss = torch.where(t == 0, 0, -t * log_p)
        if not categorical:
            loss = loss + torch.where(t == 1, 0, (t - 1) * log_q)
        w = torch.ones_like(loss)
        if voxel_weight is not None:
            w = voxel_weight[:, min(c, voxel_weight.shape[1] - 1)].to(dtype)
        share = w * t if categorical else w
        k = 1 if rule.class_weight is None else rule.class_weight[c].to(dtype)
        # Not in place: torch.func.vmap may have made batches of some of the tensors.
        total = total + torch.where(share == 0, 0, k * w * loss)
        counts = counts | (share != 0)
    if ignored is not None:
        counts = counts & ~ignored
    # So that no voxel that counts stands below those that do not.
    return total.clamp_min(torch.finfo(dtype).min), counts


class _Logarithms:
    """log p and log(1 - p) of a class at a time."""

    def __init__(
        self, input: Tensor, dtype: torch.dtype, ignored: Tensor | None, activation: str
    ) -> None:
        self.input, self.dtype = input, dtype
        self.ignored, self.activation = ignored, activation
        self.largest = self.log_sum = torch.zeros(())
        if activation == "softmax":
            self.largest = self.values(0)
            for c in range(1, input.shape[1]):
                self.largest = torch.maximum(self.largest, self.values(c))
            total = torch.zeros_like(self.largest)
            for c in range(input.shape[1]):
                total += (self.values(c) - self.largest).exp()
            self.log_sum = total.log()

    def values(self, c: int) -> Tensor:
        x = self.input[:, c].to(self.dtype)
        # So that a NaN there does not count.
        return x if self.ignored is None else x.masked_fill(self.ignored, 0)

    def of(self, c: int) -> tuple[Tensor, Tensor]:
        x = self.values(c)
        if self.activation == "softmax":
            log_p = (x - self.largest) - self.log_sum
            return log_p, log_p  # log(1 - p) is for classes that do not compete
        if self.activation == "sigmoid":
            return logsigmoid(x), logsigmoid(-x)
        return _clamped(x == 0, x.log()), _clamped(x == 1, torch.log1p(-x))


def _clamped(certain: Tensor, log: Tensor) -> Tensor:
    return torch.where(certain, LOG_MIN, log.clamp_min(LOG_MIN))


def _keys(values: Tensor) -> Tensor:
    """Return integers in the same order, NaN the largest."""
    if transforms_active():
        return _keys_by_arithmetic(values)
    integer = torch.int64 if values.dtype == torch.float64 else torch.int32
    bits = values.contiguous().view(integer)
    largest = torch.iinfo(integer).max
    return torch.where(values.isnan(), largest, torch.where(bits < 0, bits ^ largest, bits))


def _keys_by_arithmetic(values: Tensor) -> Tensor:
    """Return such integers without a look at bits, which torch 2.10 has no rule for under vmap.

    Numbers smaller than the normal ones count as 0.
    """
    info = torch.finfo(values.dtype)
    digits = 53 if values.dtype == torch.float64 else 24
    mantissa, exponent = torch.frexp(torch.where(values.isfinite(), values.abs(), info.max))
    first = 1 << (digits - 1)
    lowest = -1021 if values.dtype == torch.float64 else -125  # exponent of info.tiny
    magnitude = (exponent.to(torch.int64) - lowest) * first + (mantissa * (2 * first)).long()
    magnitude = torch.where(values.abs() < info.tiny, 0, magnitude + values.isinf())
    signed = torch.where(values < 0, -magnitude, magnitude)
    return torch.where(values.isnan(), torch.iinfo(torch.int64).max, signed)


def _largest(keys: Tensor, k: Tensor, add: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the k-th largest key: bit by bit, the largest that at least k keys reach.

    No sort, no synchronisation, and counts that add up over ranks.
    """
    info = torch.iinfo(keys.dtype)
    found = torch.where(add((keys >= 0).sum()) >= k, 0, info.min).to(keys.dtype)
    for bit in reversed(range(info.bits - 1)):
        candidate = found + (1 << bit)
        found = torch.where(add((keys >= candidate).sum()) >= k, candidate, found)
    return found
