"""Which kernels serve a call of distance_transform, and the way to each."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from segloss_fast import _native

# The order is the numbering of the native kernels (csrc/distance_transform/kernels.h).
SIDES = ("inside", "outside", "both", "signed")
# What impl="auto" tries, the expected fastest first.
PREFERENCE = ("native", "triton")
_TRITON = "segloss_fast.ops.distance_transform.triton_launch"


def why_not(impl: str, device: torch.device) -> str | None:
    """Return why these kernels cannot serve such a mask, None where they can."""
    if impl == "triton":
        return _native.why_no_triton("distance_transform", device) or _why_not_there()
    reason = _native.why_no_native("distance_transform", device)
    if reason is None and not hasattr(torch.ops.segloss_fast, _operator(device)):
        return f"distance_transform has no native kernels for {device.type} tensors"
    return reason


def _why_not_there() -> str | None:
    return None if find_spec(_TRITON) else "distance_transform has no Triton kernels"


def _operator(device: torch.device) -> str:
    return f"_distance_transform_{device.type}"


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
        launch = import_module(_TRITON).forward
    else:
        launch = getattr(torch.ops.segloss_fast, _operator(mask.device))
    result: Tensor = launch(mask, list(spacing), SIDES.index(side), squared)
    return result
