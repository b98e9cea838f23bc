"""Which kernels serve a call of confusion_sums, and the way to them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from segloss_fast._native import why_no_native, why_no_triton
from segloss_fast.ops._invalid import marked
from segloss_fast.ops.region_sums import ACTIVATIONS


def why_not(impl: str, device: torch.device, dtype: torch.dtype = torch.float32) -> str | None:
    """Return why these kernels cannot serve such an input, None where they can."""
    if impl != "triton":
        return why_no_native("confusion_sums", device, on_cuda=False)
    reason = why_no_triton("confusion_sums", device)
    if reason is None and dtype == torch.float64:
        return "the Triton kernels have no float64"
    return reason


def forward(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    activation: str,
    ignore_index: int | None,
    impl: str,
) -> Tensor:
    """Return the sums by the kernels that ``impl`` names, "native" or "triton"."""
    launch = _triton().forward if impl == "triton" else torch.ops.segloss_fast._confusion_sums
    code = ACTIVATIONS.index(activation)
    sums, invalid = launch(input, target, voxel_weight, code, ignore_index)
    return marked(sums, invalid, input, target)


def backward(
    grad_sums: Tensor,
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    activation: str,
    ignore_index: int | None,
    impl: str,
) -> Tensor:
    """Return the gradient of the input, given that of the sums, by the same kernels."""
    native = torch.ops.segloss_fast._confusion_sums_backward
    launch = _triton().backward if impl == "triton" else native
    code = ACTIVATIONS.index(activation)
    grad: Tensor = launch(grad_sums, input, target, voxel_weight, code, ignore_index)
    return grad


def _triton() -> ModuleType:
    # Not at import: triton is optional.
    return import_module("segloss_fast.ops.confusion_sums.triton_launch")
