"""Which kernels serve a call of hardest_voxels, and the way to them."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast._impl import resolve
from segloss_fast._native import why_no_native
from segloss_fast.ops.region_sums import ACTIVATIONS


def why_not(impl: str, device: torch.device) -> str | None:
    """Return why these kernels cannot serve such a tensor, None where they can."""
    if impl == "native" and device.type == "cpu":
        return why_no_native("hardest_voxels", device)
    kind = {"native": "native", "triton": "Triton"}[impl]
    return f"hardest_voxels has no {kind} kernels for {device.type} tensors; PyTorch serves"


def choose(impl: str, device: torch.device) -> str:
    """Return "native" or "reference".

    Never an error: the kernels that ``impl`` names are those of region_sums, which sums the voxels.
    """
    named = resolve(impl, ("native",), lambda name: None)
    return "native" if named != "reference" and why_not("native", device) is None else "reference"


def forward(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    class_weight: Tensor | None,
    k: float,
    activation: str,
    first: int,
    ignore_index: int | None,
) -> tuple[Tensor, Tensor]:
    """Return the weights and their sums; the arguments are those of the operator."""
    code = ACTIVATIONS.index(activation)
    result: tuple[Tensor, Tensor] = torch.ops.segloss_fast._hardest_voxels_cpu(
        input, target, voxel_weight, class_weight, k, code, first, ignore_index
    )
    return result
