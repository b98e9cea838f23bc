"""Which kernels serve a call of soft_skeleton, and the way to them."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast._impl import resolve
from segloss_fast._native import why_no_native


def why_not(impl: str, device: torch.device) -> str | None:
    """Return why these kernels cannot serve such a tensor, None where they can."""
    if impl == "native" and device.type == "cpu":
        return why_no_native("soft_skeleton", device)
    kind = {"native": "native", "triton": "Triton"}[impl]
    return f"soft_skeleton has no {kind} kernels for {device.type} tensors; PyTorch serves"


def choose(impl: str, device: torch.device) -> str:
    """Return "native" or "reference".

    Never an error: the kernels that ``impl`` names are those of the primitives that do the work,
    some of which have none here.
    """
    named = resolve(impl, ("native",), lambda name: None)
    return "native" if named != "reference" and why_not("native", device) is None else "reference"


def forward(values: Tensor, iterations: int, first: int) -> Tensor:
    """Return the skeletons; the arguments are those of the reference."""
    result: Tensor = torch.ops.segloss_fast._soft_skeleton_cpu(values, iterations, first)
    return result


def backward(grad: Tensor, values: Tensor, iterations: int, first: int) -> Tensor:
    """Return the gradient of the values, given that of the skeletons."""
    operator = torch.ops.segloss_fast._soft_skeleton_backward_cpu
    result: Tensor = operator(grad, values, iterations, first)
    return result
