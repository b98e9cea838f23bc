"""The definition of confusion_sums, in plain differentiable PyTorch on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast.ops.region_sums.reference import activate, one_hot, row_dtype, sum_voxels


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
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    x = input.to(dtype)
    w = None if voxel_weight is None else voxel_weight.to(dtype)
    invalid = torch.zeros(2, dtype=row_dtype(x.device), device=x.device)
    if target.dim() == x.dim():
        t = target.to(dtype)
    else:
        t, counted, invalid = one_hot(target, x.shape[1], ignore_index, dtype)
        if ignore_index is not None:
            x = x.masked_fill(~counted, 0)  # so that a NaN there does not count
            w = None if w is None else w.masked_fill(~counted, 0)
    t = t if w is None else w * t
    p = activate(x, activation)
    # A class at a time: the products of all would be C times the input.
    rows = [
        torch.cat([sum_voxels(t[:, c : c + 1] * p), sum_voxels(t[:, c : c + 1])], 1)
        for c in range(x.shape[1])
    ]
    return torch.stack(rows, 1), invalid
