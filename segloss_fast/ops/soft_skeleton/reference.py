"""The definition of soft_skeleton, in plain differentiable PyTorch on any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

_POOLING = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


def forward(values: Tensor, iterations: int, first: int) -> Tensor:
    """Return the skeletons, of the values' shape and dtype.

    One class at a time, so that where a gradient follows, which computes the skeleton again, the
    maps in between are those of one class.

    Args:
        values: ``[B, C, *S]``, floating point, or bool for masks.
        iterations: Number of erosions after the first.
        first: Skeletons of classes below it are 0.
    """
    if values.numel() == 0:
        return values.clone()
    rows = []
    for c in range(values.shape[1]):
        plane = values[:, c : c + 1]
        if c < first:
            rows.append(torch.zeros_like(plane))
        elif values.dtype == torch.bool:
            rows.append(skeleton(plane.to(torch.float32), iterations) != 0)
        elif torch.is_grad_enabled() and values.requires_grad:
            rows.append(
                checkpoint(
                    skeleton, plane, iterations, use_reentrant=False, preserve_rng_state=False
                )
            )
        else:
            rows.append(skeleton(plane, iterations))
    return torch.cat(rows, 1)


def skeleton(values: Tensor, iterations: int) -> Tensor:
    """Return the skeletons of ``[B, C, *S]``, floating point."""
    found = values.new_zeros(())
    for level in range(iterations + 1):
        eroded = _erode(values)
        delta = (values - _dilate(eroded)).relu()
        found = found + (delta - found * delta).relu() if level else delta
        values = eroded
    return found


def _erode(values: Tensor) -> Tensor:
    """Return the minimum over a voxel and its face neighbours, axis by axis."""
    axes = values.dim() - 2
    minimum = None
    for axis in range(axes):
        size = [3 if other == axis else 1 for other in range(axes)]
        along = -_POOLING[axes - 1](-values, size, 1, [side // 2 for side in size])
        minimum = along if minimum is None else torch.minimum(minimum, along)
    assert minimum is not None
    return minimum


def _dilate(values: Tensor) -> Tensor:
    """Return the maximum over a cube of three voxels a side."""
    return _POOLING[values.dim() - 3](values, 3, 1, 1)
