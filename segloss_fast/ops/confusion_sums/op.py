"""confusion_sums as operators of torch, and its kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops._operator import Kernels, Native, Triton, define_both, no_float64
from segloss_fast.ops._voxels.labels import marked
from segloss_fast.ops._voxels.maps import ACTIVATIONS

kernels = Kernels("confusion_sums", Native(cuda=False), Triton(no_float64))


def _forward(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    activation: str,
    ignore_index: int | None,
    impl: str,
) -> Tensor:
    launch, code = kernels.step(impl, "forward"), ACTIVATIONS.index(activation)
    sums, invalid = launch(input, target, voxel_weight, code, ignore_index)
    return marked(sums, invalid, input, target)


def _backward(
    grad_sums: Tensor,
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    activation: str,
    ignore_index: int | None,
    impl: str,
) -> Tensor:
    launch, code = kernels.step(impl, "backward"), ACTIVATIONS.index(activation)
    grad: Tensor = launch(grad_sums, input, target, voxel_weight, code, ignore_index)
    return grad


def _fake(input: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
    classes = input.shape[1]
    return input.new_empty((input.shape[0], classes, classes + 1), dtype=torch.float64)


call: Callable[..., Tensor] = define_both(
    kernels,
    ("Tensor input", "Tensor target", "Tensor? voxel_weight"),
    "str activation, int? ignore_index, str impl",
    (_forward, _backward),
    _fake,
    "grad_sums",
)
