"""hardest_voxels as an operator of torch, without a derivative, and its kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops._operator import Kernels, Native, Triton, define, no_float64
from segloss_fast.ops._voxels.maps import ACTIVATIONS
from segloss_fast.ops.hardest_voxels.reference import Rule

kernels = Kernels("hardest_voxels", Native(cuda=False), Triton(no_float64))


def _forward(
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
    launch = kernels.step(impl, "forward")
    code = ACTIVATIONS.index(activation)
    result: tuple[Tensor, Tensor] = launch(
        input, target, voxel_weight, class_weight, k, code, first, ignore_index
    )
    return result


def _fake(input: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    weights = input.new_empty((input.shape[0], 1, *input.shape[2:]), dtype=dtype)
    return weights, input.new_empty(input.shape[0], dtype=torch.float64)


_operator = define(
    "hardest_voxels",
    "(Tensor input, Tensor target, Tensor? voxel_weight, Tensor? class_weight, float k, "
    "str activation, int first, int? ignore_index, str impl) -> (Tensor, Tensor)",
    _forward,
    _fake,
)


def call(
    input: Tensor, target: Tensor, voxel_weight: Tensor | None, rule: Rule, impl: str
) -> tuple[Tensor, Tensor]:
    """Return the weights and their sums by the kernels that ``impl`` names."""
    result: tuple[Tensor, Tensor] = _operator(
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
