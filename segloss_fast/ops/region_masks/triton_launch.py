"""region_masks by a Triton kernel: one launch for all items and classes.

Sizes, strides, the number of classes and the ignored label are runtime arguments: a new kernel is
compiled only for another mode, dtype, kind of layout or alignment.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast.ops._triton.launch import Launch
from segloss_fast.ops._triton.views import view_of, without_bools
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
    x = view_of(without_bools(values), out.shape)
    counted = x
    if not from_labels and labels is not None:
        counted = view_of(without_bools(labels), out.shape)
    ignores = (
        ignore_index is not None
        and (from_labels or labels is not None)
        and can_hold(counted.tensor.dtype, ignore_index)
    )
    t = counted if ignores else x
    voxels = sizes.numel()
    space = (*[1] * (5 - out.dim()), *sizes)
    padded = (space[0], space[1], space[2])
    x_linear, t_linear = x.is_linear(1, padded), t.is_linear(1, padded)
    unit = 1
    if x_linear and t_linear:
        numbers = (voxels, x.batch, x.classes, t.batch)
        unit = UNIT if all(number % UNIT == 0 for number in numbers) else 1
    blocks = -(-voxels // BLOCK)
    return Launch(
        triton_kernels.masks,
        (out.shape[0] * blocks,),
        {
            **{"x": x.tensor, "t": t.tensor, "out": out.view(torch.uint8)},
            **{"x_bs": x.batch // unit, "x_cs": x.classes // unit, "t_bs": t.batch // unit},
            **{f"x_s{d}": stride for d, stride in enumerate(x.voxels)},
            **{f"t_s{d}": stride for d, stride in enumerate(t.voxels)},
            **{"voxels": voxels // unit, "n1": padded[1], "n2": padded[2], "blocks": blocks},
            **{"classes": classes, "first": min(first, classes)},
            "ignore": ignore_index if ignores else 0,
        },
        {
            **{"MODE": mode, "IGNORES": ignores, "ONE_CLASS": classes == 1},
            **{"X_LINEAR": x_linear, "T_LINEAR": t_linear, "UNIT": unit, "BLOCK": BLOCK},
        },
    )
