"""The definition of distance_transform, in plain PyTorch on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segloss_fast.ops._voxels.pieces import is_plain

# The order is the numbering of the native kernels (csrc/distance_transform/kernels.h).
SIDES = ("inside", "outside", "both", "signed")

BLOCK = 2**22  # values of the temporary: 32 MiB in float64
CACHED = 2**18  # on a CPU, where 2 MiB stay in its cache, which is faster


def forward(mask: Tensor, spacing: Sequence[float], side: str, squared: bool) -> Tensor:
    """Return the distances ``[B, C, *S]``, float32.

    Args:
        mask: ``[B, C, *S]``.
        spacing: One per axis of S.
        side: ``"inside"``, ``"outside"``, ``"both"`` or ``"signed"``.
        squared: Whether to return squares.
    """
    inside = (mask != 0).contiguous()
    if side == "inside":
        return _distance(inside, spacing, squared)
    outside = _distance(~inside, spacing, squared)
    if side == "outside":
        return outside
    sign = -1 if side == "signed" else 1
    # Of the two, the one of the voxel's own side; the other is 0 there.
    return torch.where(inside, sign * _distance(inside, spacing, squared), outside)


def _distance(own: Tensor, spacing: Sequence[float], squared: bool) -> Tensor:
    """Return the distance to the nearest voxel that is not ``own``, 0 at those."""
    dtype = torch.float32 if own.device.type == "mps" else torch.float64
    square = torch.where(own, torch.inf, 0.0).to(dtype)
    if square.numel() == 0:
        return square.to(torch.float32)
    for axis, step in enumerate(spacing, start=2):
        square = _least_along(square, axis, step)
    return (square if squared else square.sqrt()).to(torch.float32).contiguous()


def _least_along(square: Tensor, axis: int, step: float) -> Tensor:
    """Return ``min_j square[j] + (step (i - j))^2`` for every i along the axis."""
    moved = square.movedim(axis, -1)
    lines = moved.reshape(-1, moved.shape[-1])  # [L, N]
    count, length = lines.shape
    place = torch.arange(length, device=square.device, dtype=square.dtype)
    block = CACHED if is_plain(square) else BLOCK  # compilers write each block out
    rows = max(1, min(length, block // length))  # of output, in a block
    at_once = max(1, block // (rows * length))  # lines in a block
    least = torch.empty_like(lines)
    for row in range(0, length, rows):
        cost = (step * (place[row : row + rows, None] - place)).square()  # [I, J]
        for line in range(0, count, at_once):
            candidates = lines[line : line + at_once, None] + cost  # [L, I, J]
            least[line : line + at_once, row : row + rows] = candidates.amin(-1)
    return least.view(moved.shape).movedim(-1, axis)
