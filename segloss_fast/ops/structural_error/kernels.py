"""Which kernels serve a call of structural_error, and the way to each."""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor

from segloss_fast import _native
from segloss_fast._check import REAL
from segloss_fast.ops import _choice

MAX_WINDOW = 65  # that the kernels take (csrc/structural_error/kernels.h)


def why_not(impl: str, device: torch.device) -> str | None:
    """Return why these kernels cannot serve such a tensor, None where they can."""
    if impl == "triton":
        return _native.why_no_triton("structural_error", device)
    return _native.why_no_native("structural_error", device, on_cuda=False)


def choose(impl: str, device: torch.device) -> str:
    """Return "native", "triton" or "reference"; see :func:`_choice.choose`."""
    return _choice.choose(impl, device, why_not)


def triton_takes(values: Tensor, target: Tensor) -> bool:
    """Whether the Triton kernels know these dtypes."""
    return values.dtype in (torch.float32, torch.float64) and target.dtype in REAL


def forward(
    values: Tensor,
    target: Tensor,
    window_size: int,
    sigma: float,
    constant: float,
    first: int,
    impl: str,
) -> Tensor:
    """Return the errors.

    Args:
        values: As for the reference.
        target: As for the reference.
        window_size: As for the reference; at most MAX_WINDOW.
        sigma: As for the reference.
        constant: As for the reference.
        first: As for the reference.
        impl: ``"native"`` or ``"triton"``.
    """
    if impl == "triton":
        # Not at import: triton is optional.
        launch = import_module("segloss_fast.ops.structural_error.triton_launch").forward
    else:
        launch = torch.ops.segloss_fast._structural_error
    result: Tensor = launch(values, target, window_size, sigma, constant, first)
    return result


def backward(
    grad: Tensor,
    values: Tensor,
    target: Tensor,
    window_size: int,
    sigma: float,
    constant: float,
    first: int,
    impl: str,
) -> Tensor:
    """Return the gradient of the values, given that of the errors."""
    if impl == "triton":
        launch = import_module("segloss_fast.ops.structural_error.triton_launch").backward
    else:
        launch = torch.ops.segloss_fast._structural_error_backward
    result: Tensor = launch(grad, values, target, window_size, sigma, constant, first)
    return result
