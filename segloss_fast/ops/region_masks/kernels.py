"""Which kernels serve a call of region_masks, and the way to them."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast._impl import resolve
from segloss_fast._native import why_no_native

# The order is the numbering of the native kernels (csrc/region_masks/kernels.h).
MODES = ("softmax", "sigmoid", "values", "labels")


def why_not(impl: str, device: torch.device) -> str | None:
    """Return why these kernels cannot serve such a tensor, None where they can."""
    if impl == "native" and device.type == "cpu":
        return why_no_native("region_masks", device)
    kind = {"native": "native", "triton": "Triton"}[impl]
    return f"region_masks has no {kind} kernels for {device.type} tensors; PyTorch serves"


def choose(impl: str, device: torch.device) -> str:
    """Return "native" or "reference".

    Never an error: the kernels that ``impl`` names are those of the primitives that do the work,
    some of which have none here.
    """
    named = resolve(impl, ("native",), lambda name: None)
    return "native" if named != "reference" and why_not("native", device) is None else "reference"


def forward(
    values: Tensor,
    labels: Tensor | None,
    classes: int,
    mode: str,
    ignore_index: int | None,
    first: int,
) -> Tensor:
    """Return the masks, bool ``[B, C, *S]``; the arguments are those of the reference."""
    result: Tensor = torch.ops.segloss_fast._region_masks_cpu(
        values, labels, classes, MODES.index(mode), ignore_index, first
    )
    return result
