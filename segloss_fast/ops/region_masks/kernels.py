"""Which kernels serve a call of region_masks, and the way to each."""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor

from segloss_fast import _native
from segloss_fast.ops import _choice

# The order is the numbering of the native kernels (csrc/region_masks/kernels.h).
MODES = ("softmax", "sigmoid", "values", "labels")


def why_not(impl: str, device: torch.device) -> str | None:
    """Return why these kernels cannot serve such a tensor, None where they can."""
    if impl == "triton":
        return _native.why_no_triton("region_masks", device)
    return _native.why_no_native("region_masks", device)


def choose(impl: str, device: torch.device) -> str:
    """Return "native", "triton" or "reference"; see :func:`_choice.choose`."""
    return _choice.choose(impl, device, why_not)


def forward(
    values: Tensor,
    labels: Tensor | None,
    classes: int,
    mode: str,
    ignore_index: int | None,
    first: int,
    impl: str,
) -> Tensor:
    """Return the masks, bool ``[B, C, *S]``.

    Args:
        values: As for the reference.
        labels: As for the reference.
        classes: As for the reference.
        mode: One of MODES.
        ignore_index: As for the reference.
        first: As for the reference.
        impl: ``"native"`` or ``"triton"``.
    """
    if impl == "triton":
        # Not at import: triton is optional.
        launch = import_module("segloss_fast.ops.region_masks.triton_launch").forward
    else:
        launch = torch.ops.segloss_fast._region_masks
    result: Tensor = launch(values, labels, classes, MODES.index(mode), ignore_index, first)
    return result
