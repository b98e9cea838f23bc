"""Which kernels serve a call of distance_transform, and the way to each."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import torch
from torch import Tensor

from segloss_fast import _native
from segloss_fast.ops.distance_transform import scipy_transform

# The order is the numbering of the native kernels (csrc/distance_transform/kernels.h).
SIDES = ("inside", "outside", "both", "signed")


def why_not(impl: str, device: torch.device) -> str | None:
    """Return why these kernels, or SciPy, cannot serve such a mask, None where they can."""
    if impl == "scipy":
        return scipy_transform.why_not(device)
    if impl == "triton":
        return _native.why_no_triton("distance_transform", device)
    return _native.why_no_native("distance_transform", device)


def forward(mask: Tensor, spacing: Sequence[float], side: str, squared: bool, impl: str) -> Tensor:
    """Return the distances ``[B, C, *S]``, float32, contiguous.

    Args:
        mask: ``[B, C, *S]``.
        spacing: One per axis of S.
        side: One of SIDES.
        squared: Whether to return squares.
        impl: ``"native"`` or ``"triton"``.
    """
    if impl == "triton":
        # Not at import: triton is optional.
        launch = import_module("segloss_fast.ops.distance_transform.triton_launch").forward
    else:
        launch = torch.ops.segloss_fast._distance_transform
    result: Tensor = launch(mask, list(spacing), SIDES.index(side), squared)
    return result
