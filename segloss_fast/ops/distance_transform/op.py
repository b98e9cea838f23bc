"""distance_transform as an operator of torch, without a derivative, and its kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segloss_fast.ops._operator import Kernels, Native, Triton, define
from segloss_fast.ops.distance_transform.reference import SIDES
from segloss_fast.ops.distance_transform.scipy_transform import Scipy

kernels = Kernels("distance_transform", Native(), Triton(), Scipy())


def _forward(mask: Tensor, spacing: list[float], side: str, squared: bool, impl: str) -> Tensor:
    launch = kernels.step(impl, "forward")
    result: Tensor = launch(mask, list(spacing), SIDES.index(side), squared)
    return result


def _fake(mask: Tensor, spacing: list[float], side: str, squared: bool, impl: str) -> Tensor:
    return mask.new_empty(mask.shape, dtype=torch.float32)


call: Callable[..., Tensor] = define(
    "distance_transform",
    "(Tensor mask, float[] spacing, str side, bool squared, str impl) -> Tensor",
    _forward,
    _fake,
)
