"""The definition of region_sums, in plain differentiable PyTorch on any device."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from segloss_fast.ops._voxels.labels import (
    one_hot,
    trusted_one_hot,
    trusted_unit_values,
    unit_values,
)
from segloss_fast.ops._voxels.maps import in_blocks, row_dtype
from segloss_fast.ops._voxels.pieces import first_invalid, is_plain, sum_in_pieces
from segloss_fast.ops.region_sums.options import Options
from segloss_fast.ops.region_sums.reference_maps import Maps, TrustingMaps


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
    return sum_in_pieces(functools.partial(_sums, options), input, target, voxel_weight, axis=1)


def _sums(
    options: Options, input: Tensor, target: Tensor, voxel_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    quick = None
    if is_plain(input, target, voxel_weight):
        quick = _attempt(options, input, target, voxel_weight)
    return _define(options, input, target, voxel_weight) if quick is None else quick


def _define(
    options: Options, input: Tensor, target: Tensor, voxel_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    x = input.to(dtype)
    w = None if voxel_weight is None else voxel_weight.to(dtype)
    invalid = torch.zeros(2, dtype=row_dtype(x.device), device=x.device)
    counted = None
    if target.dim() < x.dim():
        t, counted, invalid = one_hot(target, x.shape[1], options.ignore_index, dtype)
    elif x.shape[1] == 1:
        t, counted, invalid = unit_values(target, options.ignore_index, dtype)
    else:
        t = target.to(dtype)
    if counted is not None:
        x = x.masked_fill(~counted, 0)  # so that a NaN there does not count
        w = counted.to(dtype) if w is None else w.masked_fill(~counted, 0)
    maps = Maps(x, t, options)
    return torch.stack([maps.row(name, w) for name in options.terms]), invalid


def _attempt(
    options: Options, input: Tensor, target: Tensor, voxel_weight: Tensor | None
) -> tuple[Tensor, Tensor] | None:
    """Return what _define does, at a third of the time; None where it would not be the same.

    It trusts that all labels are right and no value is infinite or NaN, and looks at the sums
    whether that was so: what is not finite shows there, even where it is multiplied by 0.
    """
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    x, w = in_blocks(input.to(dtype), 2), None
    if voxel_weight is not None:
        w = in_blocks(voxel_weight.to(dtype), 2)
    ignored = options.ignore_index
    if target.dim() < input.dim():
        read = trusted_one_hot(in_blocks(target, 1), x.shape[1], ignored, dtype)
    elif x.shape[1] == 1:
        read = trusted_unit_values(in_blocks(target, 2), ignored, dtype)
    else:
        read = in_blocks(target.to(dtype), 2), None
    if read is None:
        return None
    t, counted = read
    if counted is not None:
        w = counted if w is None else w.masked_fill(counted == 0, 0)  # it may be NaN there
        x = x.view_as(x)  # it may be the caller's, who has no use for a hook
    maps = TrustingMaps(x, t, options, labels=target.dim() < input.dim())
    rows = torch.stack([maps.row(name, w) for name in options.terms])
    if not bool(rows.isfinite().all()):
        return None
    if counted is not None and x.requires_grad and rows.requires_grad:
        _keep_out(counted, x, rows)
    return rows, rows.new_zeros(2)


def _keep_out(counted: Tensor, x: Tensor, rows: Tensor) -> None:
    """Let no gradient come to voxels that do not count, even if what comes to the rows is NaN.

    A weight of 0 is enough for all but that, and to mask the maps always would take a third longer.
    """
    moderate = [True]

    def look(grad: Tensor | None) -> None:
        if grad is None:  # which stands for 0
            return
        several = torch._C._functorch.is_legacy_batchedtensor(grad)
        known = is_plain(grad) and not several  # else nobody may look at the values
        moderate[0] = known and bool((grad.abs() < 1e30).all())  # of more a product may overflow

    def mask(grad: Tensor | None) -> Tensor | None:
        return grad if grad is None or moderate[0] else grad.masked_fill(counted == 0, 0)

    rows.register_hook(look)
    x.register_hook(mask)


def each(voxel_weights: Sequence[Tensor], inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Return the voxel weight of each input, None where there are none."""
    return voxel_weights or [None] * len(inputs)


def join(found: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the rows of several inputs as one, NaN if any label is out of range, and the labels.

    Args:
        found: Per input the rows ``[K, B, C]``, and how many labels are invalid and the first.
    """
    rows = torch.cat([rows for rows, _ in found], 1)
    labels = first_invalid(torch.stack([invalid for _, invalid in found]))
    return torch.where(labels[0] > 0, torch.nan, rows), labels
