"""The definition of nearest_component, in plain PyTorch on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segloss_fast._impl import debug_enabled, transforms_active
from segloss_fast.ops._voxels.pieces import is_plain
from segloss_fast.ops.distance_transform.reference import BLOCK, CACHED
from segloss_fast.ops.distance_transform.spacing import squares

MOST = 2**31 - 1  # the largest label
UNSIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def forward(labels: Tensor, spacing: Sequence[float], distance: bool) -> tuple[Tensor, Tensor]:
    """Return the nearest labels ``[B, C, *S]``, int32, and the distances, float32.

    Args:
        labels: ``[B, C, *S]``.
        spacing: One per axis of S.
        distance: Whether distances are wanted; without, they have no elements.
    """
    numbers, valid = read(labels)
    # Compilers and torch.func let nobody look; on a GPU it needs a synchronisation.
    if is_plain(labels) or looks_on_device(labels):
        check(numbers, valid, labels.dtype)
    nearest = torch.where(valid, numbers, 0).to(torch.int32).contiguous()
    dtype = torch.float32 if labels.device.type == "mps" else torch.float64
    square = torch.where(nearest > 0, 0.0, torch.inf).to(dtype)
    unit, weights = squares(spacing)
    if nearest.numel() > 0:
        for axis, weight in enumerate(weights, start=2):
            square, nearest = _least_along(square, nearest, axis, weight)
    if not distance:
        return nearest.contiguous(), square.new_empty(0, dtype=torch.float32)
    return nearest.contiguous(), (square.sqrt() * unit).to(torch.float32).contiguous()


def read(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels as int64, the largest of uint64 negative, and which of them are labels."""
    signed = UNSIGNED.get(labels.dtype)
    numbers = labels.to(torch.int64) if signed is None else labels.view(signed).to(torch.int64)
    if labels.dtype in (torch.uint16, torch.uint32):
        numbers = numbers & (2 ** (8 * labels.element_size()) - 1)
    return numbers, (numbers >= 0) & (numbers <= MOST)


def looks_on_device(labels: Tensor) -> bool:
    """Whether debug mode asks to wait for a device and to look at the labels."""
    if labels.device.type == "cpu" or torch.compiler.is_compiling() or transforms_active():
        return False
    return debug_enabled()


def check(numbers: Tensor, valid: Tensor, dtype: torch.dtype) -> None:
    """Raise ValueError unless all labels, as :func:`read` returns them, are valid."""
    if bool(valid.all()):
        return
    wrong = numbers[~valid]
    first = int(wrong[0]) % 2**64 if dtype == torch.uint64 else int(wrong[0])
    raise ValueError(
        f"labels must lie between 0 and {MOST}, got {wrong.numel()} others, "
        f"the first of which is {first}"
    )


def _least_along(square: Tensor, label: Tensor, axis: int, weight: float) -> tuple[Tensor, Tensor]:
    """Return the least ``square[j] + weight (i - j)^2`` for every i, and the least label there."""
    moved, owner = square.movedim(axis, -1), label.movedim(axis, -1)
    lines, labels = moved.reshape(-1, moved.shape[-1]), owner.reshape(-1, moved.shape[-1])
    count, length = lines.shape
    place = torch.arange(length, device=square.device, dtype=square.dtype)
    block = CACHED if is_plain(square) else BLOCK  # compilers write each block out
    rows = max(1, min(length, block // length))  # of output, in a block
    at_once = max(1, block // (rows * length))  # lines in a block
    least, whose = torch.empty_like(lines), torch.empty_like(labels)
    for row in range(0, length, rows):
        cost = weight * (place[row : row + rows, None] - place).square()  # [I, J]
        for line in range(0, count, at_once):
            part = slice(line, line + at_once), slice(row, row + rows)
            candidates = lines[part[0], None] + cost  # [L, I, J]
            least[part] = candidates.amin(-1)
            ties = candidates == least[part][..., None]  # of infinities, too: all labels are 0
            whose[part] = torch.where(ties, labels[part[0], None], MOST).amin(-1)
    return least.view(moved.shape).movedim(-1, axis), whose.view(moved.shape).movedim(-1, axis)
