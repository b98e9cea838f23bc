"""Maps of probabilities, for losses whose value at a voxel depends on its neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast.losses._keywords import Voxel
from segloss_fast.ops._voxels.labels import counted_voxels


def widened(input: Tensor, labels: Tensor, keywords: Voxel) -> tuple[Tensor, Tensor | None]:
    """Return the input in float32 or float64, 0 where ignored, and which voxels count.

    Args:
        input: ``[B, C, *S]``.
        labels: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        keywords: Of the loss.

    Returns:
        ``[B, C, *S]``, and ``[B, 1, *S]`` bool, or None where no voxel is ignored.
    """
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    counted = counted_voxels(input, labels, keywords.ignore_index)
    if counted is None:
        return input.to(dtype), None
    return input.masked_fill(~counted, 0).to(dtype), counted  # so that a NaN there does not count


def values_where_counted(input: Tensor, values: Tensor, keywords: Voxel) -> Tensor:
    """Return a target's values ``[B, C, *S]``, 0 where ignored, as those of an input."""
    counted = counted_voxels(input, values, keywords.ignore_index)
    return values if counted is None else values.masked_fill(~counted, 0)


def activated(x: Tensor, counted: Tensor | None, activation: str) -> Tensor:
    """Return the probabilities, 0 where ignored: outside of all classes.

    Args:
        x: As :func:`widened` returns it.
        counted: Likewise.
        activation: Of the loss.
    """
    p = x
    if activation != "probabilities":
        p = x.softmax(1) if activation == "softmax" else x.sigmoid()
    return p if counted is None else p.masked_fill(~counted, 0)
