"""distance_transform as an operator of torch: schema and shape rule; it has no derivative."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast.ops.distance_transform import kernels

torch.library.define(
    "segloss_fast::distance_transform",
    "(Tensor mask, float[] spacing, str side, bool squared, str impl) -> Tensor",
)
for _device in ("CPU", "CUDA"):
    torch.library.impl("segloss_fast::distance_transform", _device, kernels.forward)


@torch.library.register_fake("segloss_fast::distance_transform")
def _fake(mask: Tensor, spacing: list[float], side: str, squared: bool, impl: str) -> Tensor:
    return mask.new_empty(mask.shape, dtype=torch.float32)


def call(mask: Tensor, spacing: list[float], side: str, squared: bool, impl: str) -> Tensor:
    """Return the distances by the kernels that ``impl`` names."""
    operator = torch.ops.segloss_fast.distance_transform
    result: Tensor = operator(mask, spacing, side, squared, impl)
    return result
