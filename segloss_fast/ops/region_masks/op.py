"""region_masks as an operator of torch, without a derivative, and its kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segloss_fast.ops._operator import Kernels, Native, Triton, define
from segloss_fast.ops.region_masks.reference import MODES

kernels = Kernels("region_masks", Native(), Triton())


def _forward(
    values: Tensor,
    labels: Tensor | None,
    classes: int,
    mode: str,
    ignore_index: int | None,
    first: int,
    impl: str,
) -> Tensor:
    launch = kernels.step(impl, "forward")
    result: Tensor = launch(values, labels, classes, MODES.index(mode), ignore_index, first)
    return result


def _fake(
    values: Tensor,
    labels: Tensor | None,
    classes: int,
    mode: str,
    ignore_index: int | None,
    first: int,
    impl: str,
) -> Tensor:
    size = values.shape[1:] if mode == "labels" else values.shape[2:]
    return values.new_empty((values.shape[0], classes, *size), dtype=torch.bool)


call: Callable[..., Tensor] = define(
    "region_masks",
    "(Tensor values, Tensor? labels, SymInt classes, str mode, int? ignore_index, int first,"
    " str impl) -> Tensor",
    _forward,
    _fake,
)
