"""The definition of region_masks, in plain PyTorch on any device, a class at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast._check import writable
from segloss_fast.ops._voxels.labels import can_hold, is_class

# The order is the numbering of the native kernels (csrc/region_masks/kernels.h).
MODES = ("softmax", "sigmoid", "values", "labels")


def forward(
    values: Tensor,
    labels: Tensor | None,
    classes: int,
    mode: str,
    ignore_index: int | None,
    first: int,
) -> Tensor:
    """Return the masks, bool ``[B, C, *S]``.

    Args:
        values: ``[B, C, *S]``; in mode ``"labels"`` class indices ``[B, *S]``.
        labels: Class indices ``[B, *S]``, or None: where they are ignored, nothing is inside.
        classes: C.
        mode: ``"softmax"``, ``"sigmoid"``, ``"values"`` or ``"labels"``.
        ignore_index: The label of ignored voxels, or None.
        first: Masks of classes below it are empty.
    """
    from_labels = mode == "labels"
    size = values.shape[1:] if from_labels else values.shape[2:]
    out = values.new_zeros((values.shape[0], classes, *size), dtype=torch.bool)
    largest = one = None
    if mode == "softmax":
        largest, one = _largest(values)
    for c in range(first, classes):
        if from_labels:
            inside = is_class(values, c, classes)
        elif mode == "softmax":
            assert one is not None
            inside = (values[:, c] == largest) & one
        else:
            inside = values[:, c] > (0 if mode == "sigmoid" else 0.5)
        out[:, c] = inside
    counted = values if from_labels else labels
    if ignore_index is not None and counted is not None and can_hold(counted.dtype, ignore_index):
        kept = (counted != ignore_index)[:, None]
        out = writable(out, kept).logical_and_(kept)
    return out


def _largest(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest logit ``[B, *S]``, and whether its softmax exceeds one half."""
    largest = x.amax(1)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    total = torch.zeros_like(largest, dtype=dtype)
    for c in range(x.shape[1]):
        total += (x[:, c].to(dtype) - largest.to(dtype)).exp()
    return largest, total < 2
