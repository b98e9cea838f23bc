"""Which kernels serve a call of hardest_voxels, and the way to them."""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor

from segloss_fast import _native
from segloss_fast.ops import _choice
from segloss_fast.ops.region_sums import ACTIVATIONS


def why_not(impl: str, device: torch.device) -> str | None:
    """Return why these kernels cannot serve such a tensor, None where they can."""
    if impl == "triton":
        return _native.why_no_triton("hardest_voxels", device)
    return _native.why_no_native("hardest_voxels", device, on_cuda=False)


def choose(impl: str, device: torch.device) -> str:
    """Return "native", "triton" or "reference"; see :func:`_choice.choose`."""
    return _choice.choose(impl, device, why_not)


def serves(impl: str, dtype: torch.dtype) -> bool:
    """Whether these kernels take an input of this dtype: Triton's have no float64."""
    return impl == "native" or (impl == "triton" and dtype != torch.float64)


def forward(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    class_weight: Tensor | None,
    k: float,
    activation: str,
    first: int,
    ignore_index: int | None,
    impl: str,
) -> tuple[Tensor, Tensor]:
    """Return the weights and their sums; the arguments are those of the operator."""
    if impl == "triton":
        # Not at import: triton is optional.
        launch = import_module("segloss_fast.ops.hardest_voxels.triton_launch").forward
    else:
        launch = torch.ops.segloss_fast._hardest_voxels
    code = ACTIVATIONS.index(activation)
    result: tuple[Tensor, Tensor] = launch(
        input, target, voxel_weight, class_weight, k, code, first, ignore_index
    )
    return result
