"""What MONAI's losses over distances have in common."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from segloss_fast.compat._volumes import Volumes
from segloss_fast.compat.monai._base import activate
from segloss_fast.ops.region_masks import target_masks


def check_rank(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless this is a batch of images or of volumes."""
    if tensor.dim() not in (4, 5):
        raise ValueError(
            f"{name} must be images [B, C, H, W] or volumes [B, C, H, W, D], "
            f"got shape {list(tensor.shape)}"
        )


def is_dense(volumes: Volumes) -> bool:
    """Whether the target holds a value per class."""
    return volumes.target.dim() == volumes.input.dim()


def masks_of(volumes: Volumes) -> Tensor:
    """Return where the target's values exceed one half, bool ``[B, C, *S]``."""
    return target_masks(
        volumes.target, volumes.input.shape[1], dense=is_dense(volumes), first=volumes.first
    )


def values_of(volumes: Volumes) -> tuple[Tensor, Tensor]:
    """Return prediction and target of the classes with a share as MONAI has them, detached.

    They go to a method that a subclass has made its own.
    """
    p = activate(volumes.input.detach(), volumes.activation)
    t = volumes.target.detach() if is_dense(volumes) else masks_of(volumes).to(torch.float32)
    return p[:, volumes.first :], t[:, volumes.first :]


def weighed(volumes: Volumes, field: Tensor, target: Tensor, dtype: torch.dtype) -> Volumes:
    """Return volumes whose sums a field weighs.

    Args:
        volumes: What the loss compares.
        field: ``[B, C, *S]``, or of the classes with a share only.
        target: What is compared with the input instead of the volumes' target.
        dtype: Of the loss, but that it is at least float32, as a field is.
    """
    if volumes.first and field.shape[1] < volumes.input.shape[1]:
        left_out = field.new_zeros(()).expand(field.shape[0], volumes.first, *field.shape[2:])
        field = torch.cat([left_out, field], 1)
    dtype = torch.promote_types(dtype, torch.float32)
    return replace(volumes, target=target, weight=field, dtype=dtype)
