"""Which kernels serve a call of region_sums, and the way to each: the one place that knows."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from segloss_fast._native import CUDA_BUILD, why_no_native, why_no_triton
from segloss_fast.ops._invalid import must_mark
from segloss_fast.ops.region_sums import reference
from segloss_fast.ops.region_sums.options import ACTIVATIONS, TERMS, Options

REGISTER_CLASSES = 32  # up to so many, the Triton kernels hold a voxel's classes in registers


def preference(inputs: Sequence[Tensor]) -> tuple[str, ...]:
    """Return the kernels that impl="auto" tries, the expected fastest first.

    On CUDA, Triton streams up to 32 classes at the speed of memory; the C++ kernels stage tiles in
    shared memory, which more classes, channels-last memory and many small tensors need. The rule
    follows from the bytes that each must move; it has not been measured on a device yet.
    """
    x = inputs[0]
    if x.device.type != "cuda":
        return ("native",)  # on the CPU Triton only interprets: for tests, on request
    if len(inputs) == 1 and x.shape[1] <= REGISTER_CLASSES and not _channels_last(x):
        return ("triton", "native")
    return ("native", "triton")


def _channels_last(x: Tensor) -> bool:
    return x.shape[1] > 1 and x.stride(1) == 1 and x.stride(-1) != 1


def why_not(
    impl: str, device: torch.device, dtype: torch.dtype = torch.float32, classes: int = 1
) -> str | None:
    """Return why these kernels cannot serve such an input, None where they can."""
    if impl != "triton":
        return why_no_native("region_sums", device) or _too_many(classes, device)
    reason = why_no_triton("region_sums", device)
    if reason is None and dtype == torch.float64:
        return "the Triton kernels have no float64"
    return reason


def _too_many(classes: int, device: torch.device) -> str | None:
    """Return why so many classes are too many, None where they are not."""
    if device.type != "cuda":
        return None
    assert CUDA_BUILD is not None
    most = CUDA_BUILD["max_classes"]
    return None if classes <= most else f"the CUDA C++ kernels have at most {most} classes"


def forward(
    impl: str,
    inputs: list[Tensor],
    targets: list[Tensor],
    voxel_weights: list[Tensor],
    options: Options,
) -> Tensor:
    """Return the rows ``[K, items, C]``, the items of all inputs one after another.

    Args:
        impl: "native" or "triton".
        inputs: ``[B, C, *S]`` each; B and S may differ.
        targets: One per input: class indices ``[B, *S]``, or values ``[B, C, *S]``.
        voxel_weights: None at all, or one per input.
        options: What to compute.

    Raises:
        ValueError: If labels are out of range; on CUDA only in debug mode, else the rows are NaN.
    """
    if impl == "triton":
        rows, invalid = _triton_forward(inputs, targets, voxel_weights, options)
    else:
        operator = torch.ops.segloss_fast._region_sums
        rows, invalid = operator(inputs, targets, voxel_weights, *_codes(options))
    must_mark(invalid, inputs[0], targets[0])  # the kernels have marked the rows themselves
    return rows


def backward(
    impl: str,
    grad_rows: Tensor,
    inputs: list[Tensor],
    targets: list[Tensor],
    voxel_weights: list[Tensor],
    options: Options,
) -> list[Tensor]:
    """Return the gradient of each input, given that of the rows."""
    if impl != "triton":
        operator = torch.ops.segloss_fast._region_sums_backward
        grads: list[Tensor] = operator(grad_rows, inputs, targets, voxel_weights, *_codes(options))
        return grads
    parts = grad_rows.split([x.shape[0] for x in inputs], dim=1)
    weights = reference.each(voxel_weights, inputs)
    return [
        _triton().backward(grad, x, target, weight, options)
        for grad, x, target, weight in zip(parts, inputs, targets, weights, strict=True)
    ]


def _triton_forward(
    inputs: list[Tensor], targets: list[Tensor], voxel_weights: list[Tensor], options: Options
) -> tuple[Tensor, Tensor]:
    weights = reference.each(voxel_weights, inputs)
    found = [
        _triton().forward(x, target, weight, options)
        for x, target, weight in zip(inputs, targets, weights, strict=True)
    ]
    return found[0] if len(found) == 1 else reference.join(found)


def _triton() -> ModuleType:
    # Not at import: triton is optional.
    return import_module("segloss_fast.ops.region_sums.triton_launch")


@functools.lru_cache(maxsize=256)
def _codes(options: Options) -> tuple[Any, ...]:
    """Number the names as the native kernels do."""
    return (
        [TERMS.index(name) for name in options.terms],
        ACTIVATIONS.index(options.activation),
        ACTIVATIONS.index(options.ce_activation),
        options.gamma,
        options.ignore_index,
    )
