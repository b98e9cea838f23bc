"""Class indices where MONAI's losses raise ValueError for shapes, and their one-hot values."""

from __future__ import annotations

import torch
from torch import Tensor


def as_labels(input: Tensor, target: Tensor, classes: int | None = None) -> Tensor:
    """Return class indices ``[B, 1, *S]`` without their channel.

    Args:
        input: ``[B, C, *S]``, only its shape matters.
        target: The indices.
        classes: How many there are, those of the input if None.

    Raises:
        AssertionError: If the target has another number of channels than one.
        ValueError: If it does not fit the input otherwise.
    """
    labels = target[:, None] if target.dim() == 1 else target
    if labels.dim() == 0 or labels.shape[1] != 1:
        raise AssertionError(
            "labels should have a channel with length equal to one: target must be [B, 1, *S] "
            f"with to_onehot_y=True, got shape {list(target.shape)}"
        )
    expected = (input.shape[0], 1, *input.shape[2:])
    if labels.shape != expected or classes not in (None, input.shape[1]):
        hot = [labels.shape[0], input.shape[1] if classes is None else classes, *labels.shape[2:]]
        raise ValueError(
            f"ground truth has different shape ({hot} after one-hot encoding) from input "
            f"({list(input.shape)})"
        )
    return labels.squeeze(1)


def check_same_shape(input: Tensor, target: Tensor) -> None:
    """Raise ValueError unless both are ``[B, C, *S]``."""
    if target.shape != input.shape:
        raise ValueError(
            f"ground truth has different shape ({list(target.shape)}) from input "
            f"({list(input.shape)})"
        )


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Return the values ``[B, classes, *S]`` of class indices ``[B, *S]``.

    Raises:
        RuntimeError: If an index is no class.
    """
    values = torch.zeros(
        (labels.shape[0], classes, *labels.shape[1:]), dtype=dtype, device=labels.device
    )
    return values.scatter_(1, labels[:, None].long(), 1)


def counted(input: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Return MONAI's mask ``[B, 1, *S]``: 1 where a voxel counts, 0 where it does not.

    Args:
        input: ``[B, C, *S]``, only its shape matters.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        ignore_index: The index, or the value of one class, that does not count. Of the values of
            several classes it is the class that does not, and they may be soft, so the mask may be
            between 0 and 1; if there is no such class, no voxel without a class counts.
    """
    if target.dim() < input.dim():
        return (target != ignore_index).float()[:, None]
    if input.shape[1] == 1:
        return (target != ignore_index).float()
    if not 0 <= ignore_index < target.shape[1]:
        return (target.sum(1, keepdim=True) > 0).float()
    own = target[:, ignore_index : ignore_index + 1]
    return 1.0 - (own.float() if own.dtype == torch.bool else own)


def may_be_soft(input: Tensor, target: Tensor) -> bool:
    """Whether a target may hold values between 0 and 1, or beyond."""
    return target.dim() == input.dim() and target.dtype != torch.bool
