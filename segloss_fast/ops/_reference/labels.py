"""Class indices in plain PyTorch: one-hot values, and what is no class."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast._check import can_hold
from segloss_fast.ops._reference.voxels import row_dtype


def one_hot(
    labels: Tensor, classes: int, ignore_index: int | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return one-hot values, which voxels count ``[B, 1, *S]``, and the invalid labels.

    Without ignore_index None instead of the voxels that count.
    """
    counted = None
    if ignore_index is not None:
        holds = can_hold(labels.dtype, ignore_index)
        counted = labels != ignore_index if holds else torch.ones_like(labels, dtype=torch.bool)
    if classes == 1:
        mask = labels != 0 if counted is None else (labels != 0) & counted
        none = labels.new_zeros(2, dtype=row_dtype(labels.device))
        return mask[:, None].to(dtype), None if counted is None else counted[:, None], none
    index = torch.arange(classes, device=labels.device).view(1, -1, *[1] * (labels.dim() - 1))
    mask = labels[:, None] == index
    bad = _out_of_range(labels, classes)
    if counted is not None:
        mask = mask & counted[:, None]
        bad = bad & counted
        counted = (counted & ~bad)[:, None]
    return mask.to(dtype), counted, count_invalid(labels, bad)


def _out_of_range(labels: Tensor, classes: int) -> Tensor:
    """Return which labels are no class."""
    if labels.dtype == torch.bool:
        return torch.zeros_like(labels)
    last = classes - 1
    above = labels > last if can_hold(labels.dtype, last) else torch.zeros_like(labels).bool()
    if labels.is_floating_point():  # NaN and fractions are none either
        return above | (labels < 0) | (labels != labels.trunc())
    return above | (labels < 0) if labels.dtype.is_signed else above


def count_invalid(labels: Tensor, bad: Tensor) -> Tensor:
    """Return ``[2]``: the number of bad labels, and the first (0 where there is none)."""
    dtype = row_dtype(labels.device)
    if labels.numel() == 0:
        return labels.new_zeros(2, dtype=dtype)
    count = bad.sum()
    place = bad.flatten().to(torch.uint8).argmax(0, keepdim=True)  # of equals, the first
    first = labels.flatten().gather(0, place)[0].to(dtype)
    return torch.stack([count.to(dtype), torch.where(count > 0, first, 0)])


def trusted_one_hot(
    labels: Tensor, classes: int, ignore_index: int | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None] | None:
    """Return one-hot values and which voxels count, as numbers; None if a label is no class.

    Where a voxel does not count, its one-hot values are those of some class. Only of ordinary
    tensors on the CPU, whose values Python may look at.
    """
    counted = None
    if ignore_index is not None and can_hold(labels.dtype, ignore_index):
        counted = labels != ignore_index
        labels = labels.masked_fill(~counted, 0)
        counted = counted[:, None].to(dtype)
    if classes == 1:
        return (labels != 0)[:, None].to(dtype), counted
    if labels.is_floating_point() and not torch.equal(labels.trunc(), labels):
        return None
    numbers = labels.to(dtype)  # exact where they are small enough for a class
    if labels.numel():
        low, high = numbers.aminmax()
        if not (float(low) >= 0 and float(high) < classes):
            return None
    # A comparison of numbers that gives numbers takes a third of the time of one that gives bool.
    index = torch.arange(classes, dtype=dtype, device=labels.device)
    values = labels.new_empty((labels.shape[0], classes, *labels.shape[1:]), dtype=dtype)
    index = index.view(1, -1, *[1] * (labels.dim() - 1))
    return torch.eq(numbers[:, None], index, out=values), counted
