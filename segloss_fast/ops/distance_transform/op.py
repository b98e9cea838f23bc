"""distance_transform as operators of torch, without derivatives, and its kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segloss_fast.ops._operator import Kernels, Native, Triton, define
from segloss_fast.ops.distance_transform import nearest_reference
from segloss_fast.ops.distance_transform.reference import SIDES
from segloss_fast.ops.distance_transform.scipy_transform import Scipy
from segloss_fast.ops.distance_transform.spacing import squares

kernels = Kernels("distance_transform", Native(), Triton(), Scipy())
INVALID = 2  # csrc/distance_transform/kernels.h


def _forward(
    mask: Tensor,
    spacing: list[float],
    side: str,
    squared: bool,
    impl: str,
    bounded: bool = False,
) -> Tensor:
    launch = kernels.step(impl, "forward")
    result: Tensor = launch(mask, list(spacing), SIDES.index(side), squared, bounded)
    return result


def _fake(
    mask: Tensor,
    spacing: list[float],
    side: str,
    squared: bool,
    impl: str,
    bounded: bool = False,
) -> Tensor:
    return mask.new_empty(mask.shape, dtype=torch.float32)


def _add(
    sum: Tensor, mask: Tensor, spacing: list[float], side: str, squared: bool, impl: str
) -> None:
    kernels.step(impl, "add")(sum, mask, list(spacing), SIDES.index(side), squared)


def _add_fake(
    sum: Tensor, mask: Tensor, spacing: list[float], side: str, squared: bool, impl: str
) -> None:
    pass


def _nearest(
    labels: Tensor, spacing: list[float], distance: bool, impl: str
) -> tuple[Tensor, Tensor]:
    launch = kernels.step(impl, "nearest")
    unit, weights = squares(spacing)
    nearest, distances, verdict = launch(labels, weights, unit, distance)
    # Only of the CPU is there one: on a device finding out needs a synchronisation.
    wrong = verdict.numel() > 0 and int(verdict) & INVALID
    if wrong or nearest_reference.looks_on_device(labels):
        nearest_reference.check(*nearest_reference.read(labels), labels.dtype)
    return nearest, distances


def _nearest_fake(
    labels: Tensor, spacing: list[float], distance: bool, impl: str
) -> tuple[Tensor, Tensor]:
    distances = labels.shape if distance else (0,)
    return labels.new_empty(labels.shape, dtype=torch.int32), labels.new_empty(
        distances, dtype=torch.float32
    )


call: Callable[..., Tensor] = define(
    "distance_transform",
    "(Tensor mask, float[] spacing, str side, bool squared, str impl, bool bounded=False)"
    " -> Tensor",
    _forward,
    _fake,
)
call_add: Callable[..., None] = define(
    "distance_transform_add",
    "(Tensor(a!) sum, Tensor mask, float[] spacing, str side, bool squared, str impl) -> ()",
    _add,
    _add_fake,
)
call_nearest: Callable[..., tuple[Tensor, Tensor]] = define(
    "nearest_component",
    "(Tensor labels, float[] spacing, bool distance, str impl) -> (Tensor, Tensor)",
    _nearest,
    _nearest_fake,
)
