"""The definition of component_sums, in plain differentiable PyTorch on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from segloss_fast.ops._voxels.labels import count_invalid, one_hot
from segloss_fast.ops._voxels.maps import (
    activate,
    clamped_log,
    clamped_log_one_minus,
    finite_or_masked,
    log_one_minus_softmax,
    row_dtype,
)

_LOGS = {
    "softmax": (lambda x: x.log_softmax(1), log_one_minus_softmax),
    "sigmoid": (logsigmoid, lambda x: logsigmoid(-x)),
    "probabilities": (clamped_log, clamped_log_one_minus),
}


def forward(
    input: Tensor,
    target: Tensor,
    bins: Tensor,
    count: int,
    activation: str,
    terms: Sequence[str],
    voxel_weight: Tensor | None,
    ignore_index: int | None,
) -> tuple[Tensor, Tensor]:
    """Return the rows ``[terms, B, C, count + 1]``, and how many labels are bad, and the first.

    Rows of an item and class are NaN where one of its bins is below 0 or above ``count``.

    Args:
        input: ``[B, C, *S]``.
        target: Class indices ``[B, *S]``, or values 0 and 1 ``[B, C, *S]``.
        bins: ``[B, 1, *S]`` or ``[B, C, *S]``.
        count: K.
        activation: One of ACTIVATIONS.
        terms: Names of the rows.
        voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``, or None.
        ignore_index: The label of ignored voxels, or None.
    """
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    x = input.to(dtype)
    w = torch.ones((), dtype=dtype, device=x.device) if voxel_weight is None else voxel_weight
    w = w.to(dtype)
    counted = None
    if target.dim() < x.dim():
        t, counted, invalid = one_hot(target, x.shape[1], ignore_index, dtype)
    else:
        t = target.to(dtype)
        invalid = count_invalid(t.detach(), (t != 0) & (t != 1))
    if counted is not None:
        x = x.masked_fill(~counted, 0)  # so that a NaN there does not count
        w = (w * torch.ones_like(counted, dtype=dtype)).masked_fill(~counted, 0)
    bins = bins.expand(x.shape).flatten(2).to(torch.int64)
    outside = (bins < 0) | (bins > count)
    bins = bins.masked_fill(outside, 0)
    rows = [_add(_map(name, x, t, activation), w, bins, count) for name in terms]
    lost = outside.any(2)[..., None]
    return torch.stack(rows).masked_fill(lost, torch.nan), invalid


def _map(name: str, x: Tensor, t: Tensor, activation: str) -> Tensor:
    """Return what each voxel adds to the row, but for its weight."""
    if name == "target":
        return t
    if name == "weight":
        return torch.ones_like(x)
    if name in ("nll", "nll_neg"):
        own = t if name == "nll" else 1 - t
        log = _LOGS[activation][name == "nll_neg"](x)
        return -(own * finite_or_masked(log, own))
    p = activate(x, activation)
    if name == "fn":
        return t * _complement(p, x, activation)
    return {"tp": p * t, "fp": p * (1 - t), "pred": p, "pred_sq": p * p}[name]


def _complement(p: Tensor, x: Tensor, activation: str) -> Tensor:
    """Return 1 - p, of a class that is nearly certain with its digits, and its gradient's."""
    if activation == "sigmoid":
        return (-x).sigmoid()
    if activation == "softmax":
        likely = p > 0.5
        return torch.where(likely, p.masked_fill(likely, 0).sum(1, keepdim=True), 1 - p)
    return 1 - p


def _add(voxels: Tensor, w: Tensor, bins: Tensor, count: int) -> Tensor:
    """Add up weighted voxels by their bins, ``[B, C, count + 1]``."""
    values = (w * voxels).flatten(2).to(row_dtype(voxels.device))
    items, classes, _ = values.shape
    rows = torch.arange(items * classes, device=bins.device).view(items, classes, 1)
    flat = (bins + rows * (count + 1)).flatten()
    sums = values.new_zeros(items * classes * (count + 1))
    # On a GPU, too, the order of this sum is always the same, unlike that of scatter_add.
    return sums.index_put((flat,), values.flatten(), accumulate=True).view(
        items, classes, count + 1
    )
