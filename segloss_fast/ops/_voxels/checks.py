"""Checks of a target and of voxel weights against the input that they go with."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast import _check


def check_target(
    input: Tensor,
    target: Tensor,
    ignore_index: int | None,
    *,
    instead: str = "; use voxel_weight instead",
    name: str = "target",
) -> Tensor:
    """Return class indices as ``[B, *S]``, values as ``[B, C, *S]``.

    Of one class floating-point numbers are values, all others labels, in either shape.
    ``instead`` ends the error where values come with an ignore_index; ``name`` is the argument's.
    """
    _check.check_dtype(name, target, _check.REAL)
    _check.check_device(name, target, input)
    index_shape = (input.shape[0], *input.shape[2:])
    one_value = input.shape[1] == 1 and target.dtype in _check.FLOATING
    if target.shape == index_shape and target.dim() < input.dim():
        return target[:, None] if one_value else target
    dense = target.shape == input.shape
    if target.shape == (index_shape[0], 1, *index_shape[1:]) and not one_value:
        return target.squeeze(1)
    if not dense:
        raise ValueError(
            f"{name} must be class indices of shape {list(index_shape)} or "
            f"{[index_shape[0], 1, *index_shape[1:]]}, or values of shape {list(input.shape)} like "
            f"input, got {list(target.shape)}"
        )
    if ignore_index is not None and not one_value:
        raise ValueError(
            "ignore_index goes with class indices, got a target that holds a value per class "
            f"({target.dtype}, shape {list(target.shape)}){instead}"
        )
    return target


def check_voxel_weight(
    input: Tensor, voxel_weight: Tensor, dtypes: tuple[torch.dtype, ...] = _check.FLOATING
) -> None:
    """Raise unless it is a ``[B, 1, *S]`` or ``[B, C, *S]`` of one of the dtypes."""
    _check.check_dtype("voxel_weight", voxel_weight, dtypes)
    _check.check_device("voxel_weight", voxel_weight, input)
    shared = torch.Size((input.shape[0], 1, *input.shape[2:]))
    if voxel_weight.shape not in (shared, input.shape):
        raise ValueError(
            f"voxel_weight must have shape {list(shared)} or {list(input.shape)}, "
            f"got {list(voxel_weight.shape)}"
        )
