"""hardest_voxels as an operator of torch: schema and shape rule; it has no derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops.hardest_voxels import kernels
from segloss_fast.ops.hardest_voxels.reference import Rule

torch.library.define(
    "segloss_fast::hardest_voxels",
    "(Tensor input, Tensor target, Tensor? voxel_weight, Tensor? class_weight, float k, "
    "str activation, int first, int? ignore_index, str impl) -> (Tensor, Tensor)",
)
for _device in ("CPU", "CUDA"):
    torch.library.impl("segloss_fast::hardest_voxels", _device, kernels.forward)


@torch.library.register_fake("segloss_fast::hardest_voxels")
def _fake(input: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    weights = input.new_empty((input.shape[0], 1, *input.shape[2:]), dtype=dtype)
    return weights, input.new_empty(input.shape[0], dtype=torch.float64)


def call(
    input: Tensor, target: Tensor, voxel_weight: Tensor | None, rule: Rule, impl: str
) -> tuple[Tensor, Tensor]:
    """Return the weights and their sums by the kernels that ``impl`` names."""
    operator = torch.ops.segloss_fast.hardest_voxels
    result: tuple[Tensor, Tensor] = operator(
        input,
        target,
        voxel_weight,
        rule.class_weight,
        rule.k,
        rule.activation,
        rule.first,
        rule.ignore_index,
        impl,
    )
    return result
