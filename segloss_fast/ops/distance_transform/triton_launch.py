"""distance_transform and nearest_component by Triton kernels: one launch per axis, for all masks.

Sizes, strides and spacings are runtime arguments: a new kernel is compiled only for another dtype
of the mask or another kind of result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops._triton.launch import Launch
from segloss_fast.ops._triton.views import view_of
from segloss_fast.ops.distance_transform import triton_kernels, triton_nearest
from segloss_fast.ops.distance_transform.reference import SIDES

BLOCK = 256
AT_ONCE = 2**24  # voxels that keep a device busy
LARGEST = torch.finfo(torch.float32).max


def forward(
    mask: Tensor, spacing: Sequence[float], side: str | int, squared: bool, bounded: bool = False
) -> Tensor:
    """Return the distances ``[B, C, *S]``, float32, contiguous.

    Args:
        mask: ``[B, C, *S]``, any strides.
        spacing: One per axis of S.
        side: One of SIDES, or its index there.
        squared: Whether to return squares.
        bounded: Whether to return 0 instead of infinity.
    """
    out = torch.empty(mask.shape, dtype=torch.float32, device=mask.device)
    _run(mask, spacing, Result(_name(side), squared, bounded), out)
    return out


def add(
    sum: Tensor, mask: Tensor, spacing: Sequence[float], side: str | int, squared: bool
) -> None:
    """Add the bounded distances to a contiguous sum; arguments as of :func:`forward`."""
    _run(mask, spacing, Result(_name(side), squared, bounded=True, add=True), sum)


@dataclass(frozen=True)
class Result:
    """What is asked for.

    Attributes:
        side: One of SIDES.
        squared: Whether it is squares.
        bounded: Whether 0 stands for infinity.
        add: Whether it is added to what the output holds.
    """

    side: str
    squared: bool
    bounded: bool = False
    add: bool = False


def _name(side: str | int) -> str:
    return side if isinstance(side, str) else SIDES[side]


def _run(mask: Tensor, spacing: Sequence[float], result: Result, out: Tensor) -> None:
    if mask.numel() > 0:
        with torch.cuda.device_of(mask):  # Triton launches on the current device
            for part in parts(mask.shape):
                for launch in launches(mask[part], spacing, result, out[part]):
                    launch()


def parts(shape: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Yield which masks ``[B, C]`` come together: of all voxels about AT_ONCE, or one mask.

    They come one after another and share the memory between passes.
    """
    items, channels = shape[:2]
    masks = max(1, AT_ONCE // math.prod(shape[2:]))
    for item in range(0, items, max(1, masks // channels)):
        of_items = slice(item, item + max(1, masks // channels))
        for channel in range(0, channels, min(masks, channels)):
            yield of_items, slice(channel, channel + min(masks, channels))


def launches(
    mask: Tensor, spacing: Sequence[float], result: Result, out: Tensor
) -> Iterator[Launch]:
    """Return what writes the distances of these masks into ``out``, contiguous."""
    sizes, side = mask.shape[2:], result.side
    root, weights = _weights([step for step, size in zip(spacing, sizes, strict=True) if size > 1])
    axes = [axis for axis, size in enumerate(sizes) if size > 1]
    weight = dict(zip(axes, weights, strict=True))
    last = len(sizes) - 1
    others = [axis for axis in reversed(axes) if axis != last]
    # A pass cannot write where its neighbours read: two buffers, the last of them the output. Where
    # that is a sum it is no buffer, and two passes need two others.
    buffers = [out, torch.empty_like(out)] if others else [out]
    spare = torch.empty_like(out) if result.add and len(others) == 2 else out
    finish = {"LAST": False, "SQUARED": False, "NEGATE": False, "BOUNDED": False, "ADD": False}
    final = {
        **{"LAST": True, "SQUARED": result.squared, "NEGATE": side == "signed"},
        **{"BOUNDED": result.bounded, "ADD": result.add},
    }
    shared = {"voxels": mask.numel(), "root": root}
    grid = ((mask.numel() + BLOCK - 1) // BLOCK,)
    to = spare if len(others) % 2 == 0 else buffers[1]
    yield Launch(
        triton_kernels.line_squares,
        grid,
        {**_view(mask), **shared, "out": to, "weight": weight.get(last, 1.0)},
        {
            "COMPLEMENT": side == "outside",
            "TWO_SIDED": side in ("both", "signed"),
            **(finish if others else final),
            "BLOCK": BLOCK,
        },
    )
    for done, axis in enumerate(others, start=1):
        squares, to = to, buffers[(len(others) - done) % 2]
        place = {"inner": math.prod(sizes[axis + 1 :]), "size": sizes[axis]}
        yield Launch(
            triton_kernels.least_squares,
            grid,
            {"squares": squares, "out": to, **shared, **place, "weight": weight[axis]},
            {**(final if done == len(others) else finish), "BLOCK": BLOCK},
        )


def nearest(
    labels: Tensor, weights: Sequence[float], unit: float, distance: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the nearest labels ``[B, C, *S]``, int32, the distances, float32, and no verdict.

    Args:
        labels: ``[B, C, *S]``, any strides.
        weights: The squared spacing of each axis of S, in a unit.
        unit: Of lengths.
        distance: Whether distances are wanted; without, they have no elements.
    """
    out = torch.empty(labels.shape, dtype=torch.int32, device=labels.device)
    shape = labels.shape if distance else (0,)
    distances = torch.empty(shape, dtype=torch.float32, device=labels.device)
    if labels.numel() > 0:
        with torch.cuda.device_of(labels):
            for launch in nearest_launches(labels, weights, unit, out, distances):
                launch()
    return out, distances, out.new_empty(0)


def nearest_launches(
    labels: Tensor, weights: Sequence[float], unit: float, out: Tensor, distances: Tensor
) -> Iterator[Launch]:
    """Return what writes the nearest labels, and the distances if these have elements."""
    sizes, last = labels.shape[2:], labels.dim() - 3
    others = [axis for axis in reversed(range(last)) if sizes[axis] > 1]
    distance = distances.numel() > 0

    def buffer(dtype: torch.dtype) -> Tensor:
        return torch.empty(labels.shape, dtype=dtype, device=labels.device)

    # As above. Squares are needed between passes, and in the end if distances are wanted.
    final = distances if distance or len(others) < 2 else buffer(torch.float32)
    buffers = [(out, final)]
    if others:
        buffers.append((buffer(torch.int32), buffer(torch.float32)))
    shared = {"voxels": labels.numel(), "unit": unit}
    grid = ((labels.numel() + BLOCK - 1) // BLOCK,)
    to = buffers[len(others) % 2]
    options = {"LAST": not others, "SQUARES": distance or bool(others), "BLOCK": BLOCK}
    yield Launch(
        triton_nearest.line_labels,
        grid,
        {**_view(labels), **shared, **_planes(to, "out"), "weight": weights[last]},
        options,
    )
    for done, axis in enumerate(others, start=1):
        source, to = to, buffers[(len(others) - done) % 2]
        is_last = done == len(others)
        place = {"inner": math.prod(sizes[axis + 1 :]), "size": sizes[axis]}
        planes = {**_planes(source, "in"), **_planes(to, "out")}
        yield Launch(
            triton_nearest.least_pairs,
            grid,
            {**planes, **shared, **place, "weight": weights[axis]},
            {**options, "LAST": is_last, "SQUARES": distance or not is_last},
        )


def _planes(planes: tuple[Tensor, Tensor], suffix: str) -> dict[str, Tensor]:
    return {f"label_{suffix}": planes[0], f"square_{suffix}": planes[1]}


def _weights(spacing: Sequence[float]) -> tuple[float, list[float]]:
    """Return the root of a unit of length, and the squared spacings in that unit.

    The unit keeps squares far from overflow. It is a power of four, so that nothing is rounded.
    """
    most = max(spacing, default=1.0)
    exponent = min(max((math.frexp(most)[1] - 1) // 2, -125), 125)
    scaled = (math.ldexp(step, -2 * exponent) for step in spacing)
    return 2.0**exponent, [min(step * step, LARGEST) for step in scaled]


def _view(mask: Tensor) -> dict[str, Any]:
    """Describe the mask as three-dimensional."""
    view = view_of(mask, mask.shape)
    sizes = (*[1] * (5 - mask.dim()), *mask.shape[2:])
    return {
        "mask": view.tensor,
        "channels": mask.shape[1],
        **dict(zip(("depth", "height", "width"), sizes, strict=True)),
        **{"m_bs": view.batch, "m_cs": view.classes},
        **dict(zip(("m_ds", "m_hs", "m_ws"), view.voxels, strict=True)),
    }
