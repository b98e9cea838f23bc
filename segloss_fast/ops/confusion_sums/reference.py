"""The definition of confusion_sums, in plain differentiable PyTorch on any device."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from segloss_fast.ops._reference.labels import one_hot, trusted_one_hot
from segloss_fast.ops._reference.maps import activate
from segloss_fast.ops._reference.pieces import is_plain, sum_in_pieces
from segloss_fast.ops._reference.voxels import in_blocks, row_dtype, sum_voxels


def forward(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    activation: str,
    ignore_index: int | None,
) -> tuple[Tensor, Tensor]:
    """Return the sums ``[B, C, C + 1]`` and ``[2]``: how many labels are out of range, the first.

    Args:
        input: ``[B, C, *S]``.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``, or None.
        activation: ``"softmax"``, ``"sigmoid"`` or ``"probabilities"``.
        ignore_index: The label of ignored voxels, or None.
    """
    definition = functools.partial(_sums, activation, ignore_index)
    return sum_in_pieces(definition, input, target, voxel_weight, axis=0)


def _sums(
    activation: str,
    ignore_index: int | None,
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    x = input.to(dtype)
    w = None if voxel_weight is None else voxel_weight.to(dtype)
    invalid = torch.zeros(2, dtype=row_dtype(x.device), device=x.device)
    if target.dim() == x.dim():
        return _define(activation, x, target.to(dtype), w), invalid
    if is_plain(input, target, voxel_weight):
        trusted = trusted_one_hot(target, x.shape[1], ignore_index, dtype)
        if trusted is not None:
            t, counts = trusted
            sums = _define(activation, x, t if counts is None else counts * t, w)
            if bool(sums.isfinite().all()):  # so was all that went into them
                return sums, invalid
    t, counted, invalid = one_hot(target, x.shape[1], ignore_index, dtype)
    if counted is not None:
        x = x.masked_fill(~counted, 0)  # so that a NaN there does not count
        w = None if w is None else w.masked_fill(~counted, 0)
    return _define(activation, x, t, w), invalid


def _define(activation: str, x: Tensor, t: Tensor, w: Tensor | None) -> Tensor:
    """Return the sums of one-hot or dense values."""
    x, t = in_blocks(x, 2), in_blocks(t, 2)
    t = t if w is None else in_blocks(w, 2) * t
    p = activate(x, activation)
    # A class at a time: the products of all would be C times the input.
    rows = [
        torch.cat([sum_voxels(t[:, c : c + 1] * p), sum_voxels(t[:, c : c + 1])], 1)
        for c in range(x.shape[1])
    ]
    return torch.stack(rows, 1)
