"""region_masks by a Triton kernel: one launch for all items and classes.

Sizes, strides, the number of classes and the ignored label are runtime arguments: a new kernel is
compiled only for another mode, dtype, kind of layout or alignment.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops._triton.launch import Launch
from segloss_fast.ops._voxels.labels import can_hold
from segloss_fast.ops.region_masks import triton_kernels
from segloss_fast.ops.region_masks.reference import MODES

BLOCK = 512  # voxels of a program, four per thread
UNIT = 4  # divisor of strides and sizes that kernels are made for


def forward(
    values: Tensor,
    labels: Tensor | None,
    classes: int,
    mode: str | int,
    ignore_index: int | None,
    first: int,
) -> Tensor:
    """Return the masks, bool ``[B, C, *S]``; the arguments are those of the reference.

    The mode may be its index in MODES.
    """
    code = MODES.index(mode) if isinstance(mode, str) else mode
    size = values.shape[1:] if MODES[code] == "labels" else values.shape[2:]
    shape = (values.shape[0], classes, *size)
    out = torch.empty(shape, dtype=torch.bool, device=values.device)
    if out.numel() > 0:
        with torch.cuda.device_of(values):  # Triton launches on the current device
            launch(values, labels, code, ignore_index, first, out)()
    return out


def launch(
    values: Tensor,
    labels: Tensor | None,
    mode: int,
    ignore_index: int | None,
    first: int,
    out: Tensor,
) -> Launch:
    """Return what writes the masks into ``out``."""
    classes, sizes = out.shape[1], out.shape[2:]
    from_labels = MODES[mode] == "labels"
    x = _view(values, sizes, from_labels)
    counted = x if from_labels or labels is None else _view(labels, sizes, True)
    ignores = (
        ignore_index is not None
        and (from_labels or labels is not None)
        and can_hold(counted["tensor"].dtype, ignore_index)
    )
    t = counted if ignores else x
    voxels = sizes.numel()
    unit = 1
    if x["linear"] and t["linear"]:
        numbers = (voxels, x["bs"], x["cs"], t["bs"])
        unit = UNIT if all(number % UNIT == 0 for number in numbers) else 1
    blocks = -(-voxels // BLOCK)
    padded = (*[1] * (3 - len(sizes)), *sizes)
    return Launch(
        triton_kernels.masks,
        (out.shape[0] * blocks,),
        {
            **{name: x[name[2:]] for name in triton_kernels.X_STRIDES},
            **{name: t[name[2:]] for name in triton_kernels.T_STRIDES},
            **{"x_bs": x["bs"] // unit, "x_cs": x["cs"] // unit, "t_bs": t["bs"] // unit},
            **{"x": x["tensor"], "t": t["tensor"], "out": out.view(torch.uint8)},
            **{"voxels": voxels // unit, "n1": padded[1], "n2": padded[2], "blocks": blocks},
            **{"classes": classes, "first": min(first, classes)},
            "ignore": ignore_index if ignores else 0,
        },
        {
            **{"MODE": mode, "IGNORES": ignores, "ONE_CLASS": classes == 1},
            **{"X_LINEAR": x["linear"], "T_LINEAR": t["linear"], "UNIT": unit, "BLOCK": BLOCK},
        },
    )


def _view(tensor: Tensor, sizes: torch.Size, from_labels: bool) -> dict[str, Any]:
    """Describe ``[B, C, *S]``, or ``[B, *S]``, as three-dimensional.

    It is linear where its voxels lie one after another.
    """
    space = tensor.stride()[1 if from_labels else 2 :]
    expected = [math.prod(sizes[d + 1 :]) for d in range(len(sizes))]
    steps = zip(sizes, space, expected, strict=True)
    padded = (*[0] * (3 - len(space)), *space)
    return {
        "tensor": tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor,
        "bs": tensor.stride(0),
        "cs": 0 if from_labels else tensor.stride(1),
        **{f"s{d}": stride for d, stride in enumerate(padded)},
        "linear": all(size == 1 or stride == wanted for size, stride, wanted in steps),
    }
