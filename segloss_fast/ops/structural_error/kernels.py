"""Which kernels serve a call of structural_error, and the way to them."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast._impl import resolve
from segloss_fast._native import why_no_native


def why_not(impl: str, device: torch.device) -> str | None:
    """Return why these kernels cannot serve such a tensor, None where they can."""
    if impl == "native" and device.type == "cpu":
        return why_no_native("structural_error", device)
    kind = {"native": "native", "triton": "Triton"}[impl]
    return f"structural_error has no {kind} kernels for {device.type} tensors; PyTorch serves"


def choose(impl: str, device: torch.device) -> str:
    """Return "native" or "reference".

    Never an error: the kernels that ``impl`` names are those of the primitives that do the work,
    some of which have none here.
    """
    named = resolve(impl, ("native",), lambda name: None)
    return "native" if named != "reference" and why_not("native", device) is None else "reference"


def forward(
    values: Tensor, target: Tensor, window_size: int, sigma: float, constant: float, first: int
) -> Tensor:
    """Return the errors; the arguments are those of the reference."""
    operator = torch.ops.segloss_fast._structural_error_cpu
    result: Tensor = operator(values, target, window_size, sigma, constant, first)
    return result


def backward(
    grad: Tensor,
    values: Tensor,
    target: Tensor,
    window_size: int,
    sigma: float,
    constant: float,
    first: int,
) -> Tensor:
    """Return the gradient of the values, given that of the errors."""
    operator = torch.ops.segloss_fast._structural_error_backward_cpu
    result: Tensor = operator(grad, values, target, window_size, sigma, constant, first)
    return result
