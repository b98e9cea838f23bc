"""Byte masks of what is predicted and of what is true, for distance_transform.

In one pass over the input, and without a map of probabilities: with m the largest logit of a voxel,
softmax(x)_c > 0.5 where x_c = m and sum_k e^(x_k - m) < 2, because 1 over this sum is the largest
probability and no other class can exceed one half. sigmoid(x) > 0.5 where x > 0. NaN is outside,
and so are voxels that are ignored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast._impl import transforms_active
from segloss_fast.ops.region_masks import op, reference

__all__ = ["prediction_masks", "target_masks"]


def prediction_masks(
    input: Tensor,
    target: Tensor,
    *,
    activation: str,
    ignore_index: int | None = None,
    first: int = 0,
    impl: str = "auto",
) -> Tensor:
    """Return where the activated input exceeds one half, bool ``[B, C, *S]``, contiguous.

    Args:
        input: ``[B, C, *S]``, floating point, any strides.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``; only its ignored voxels matter.
        activation: ``"softmax"``, ``"sigmoid"`` or ``"probabilities"``.
        ignore_index: Voxels with this class index, or value of one class, are outside.
        first: Masks of classes below it are empty.
        impl: ``"auto"``, ``"reference"``, ``"native"`` or ``"triton"``; where it names kernels that
            do not run here, others serve.
    """
    classes, dense = input.shape[1], target.dim() == input.dim()
    labels = _labels(target, classes, dense) if ignore_index is not None else None
    mode = "values" if activation == "probabilities" else activation
    return _masks(input, labels, classes, mode, ignore_index, first, impl)


def target_masks(
    target: Tensor,
    classes: int,
    *,
    dense: bool,
    ignore_index: int | None = None,
    first: int = 0,
    impl: str = "auto",
) -> Tensor:
    """Return each class's voxels, bool ``[B, C, *S]``, contiguous.

    Args:
        target: Class indices ``[B, *S]`` of any real dtype (the label of one class is 1), or values
            ``[B, C, *S]`` (the voxels above one half).
        classes: Number of classes.
        dense: Whether the target holds values.
        ignore_index: As for :func:`prediction_masks`.
        first: As for :func:`prediction_masks`.
        impl: As for :func:`prediction_masks`.
    """
    mode = "values" if dense else "labels"
    labels = _labels(target, classes, dense) if dense and ignore_index is not None else None
    return _masks(target, labels, classes, mode, ignore_index, first, impl)


def _labels(target: Tensor, classes: int, dense: bool) -> Tensor | None:
    """Return ``[B, *S]``, where voxels may be ignored; None if values of classes cannot be."""
    if dense:
        return target[:, 0] if classes == 1 else None
    return target


def _masks(
    values: Tensor,
    labels: Tensor | None,
    classes: int,
    mode: str,
    ignore_index: int | None,
    first: int,
    impl: str,
) -> Tensor:
    values = values.detach()
    labels = None if labels is None else labels.detach()
    chosen = op.kernels.choose(impl, values.device)
    if chosen != "reference" and not transforms_active():
        return op.call(values, labels, classes, mode, ignore_index, first, chosen)
    with torch.no_grad():
        return reference.forward(values, labels, classes, mode, ignore_index, first)
