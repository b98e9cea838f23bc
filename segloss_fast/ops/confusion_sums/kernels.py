"""Which kernels serve a call of confusion_sums, and the way to them."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast import _check
from segloss_fast._impl import debug_enabled
from segloss_fast._native import why_no_native
from segloss_fast.ops.region_sums import ACTIVATIONS
from segloss_fast.ops.region_sums.kernels import check_labels_on_device


def why_not(impl: str, device: torch.device) -> str | None:
    """Return why these kernels cannot serve such a tensor, None where they can."""
    if impl == "native" and device.type == "cpu":
        return why_no_native("confusion_sums", device)
    kind = {"native": "native", "triton": "Triton"}[impl]
    return f"confusion_sums has no {kind} kernels for {device.type} tensors; use impl='reference'"


def guard(sums: Tensor, invalid: Tensor, input: Tensor, target: Tensor) -> Tensor:
    """Raise ValueError if labels are out of range; return NaN where that would need waiting."""
    if target.dim() == input.dim():
        return sums
    if input.device.type == "cpu" and not torch.compiler.is_compiling():
        _check.check_labels(invalid, input.shape[1])
    elif debug_enabled():
        check_labels_on_device(invalid, input.shape[1])
    else:
        sums = torch.where(invalid[0] > 0, torch.nan, sums)
    return sums


def forward(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    activation: str,
    ignore_index: int | None,
) -> Tensor:
    """Return the sums by the native kernels."""
    code = ACTIVATIONS.index(activation)
    sums, invalid = torch.ops.segloss_fast._confusion_sums_cpu(
        input, target, voxel_weight, code, ignore_index
    )
    return guard(sums, invalid, input, target)


def backward(
    grad_sums: Tensor,
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    activation: str,
    ignore_index: int | None,
) -> Tensor:
    """Return the gradient of the input by the native kernels, given that of the sums."""
    code = ACTIVATIONS.index(activation)
    grad: Tensor = torch.ops.segloss_fast._confusion_sums_cpu_backward(
        grad_sums, input, target, voxel_weight, code, ignore_index
    )
    return grad
