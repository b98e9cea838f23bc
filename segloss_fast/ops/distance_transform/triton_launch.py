"""distance_transform and nearest_component by Triton kernels: one launch per axis, for all masks.

Sizes, strides and spacings are runtime arguments: a new kernel is compiled only for another dtype
of the mask or another kind of result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops._triton.launch import Launch
from segloss_fast.ops._triton.views import view_of
from segloss_fast.ops.distance_transform import triton_kernels, triton_nearest
from segloss_fast.ops.distance_transform.reference import SIDES

BLOCK = 256
LARGEST = torch.finfo(torch.float32).max


def forward(mask: Tensor, spacing: Sequence[float], side: str | int, squared: bool) -> Tensor:
    """Return the distances ``[B, C, *S]``, float32, contiguous.

    Args:
        mask: ``[B, C, *S]``, any strides.
        spacing: One per axis of S.
        side: One of SIDES, or its index there.
        squared: Whether to return squares.
    """
    name = side if isinstance(side, str) else SIDES[side]
    out = torch.empty(mask.shape, dtype=torch.float32, device=mask.device)
    if mask.numel() > 0:
        with torch.cuda.device_of(mask):  # Triton launches on the current device
            for launch in launches(mask, spacing, name, squared, out):
                launch()
    return out


def launches(
    mask: Tensor, spacing: Sequence[float], side: str, squared: bool, out: Tensor
) -> Iterator[Launch]:
    """Return what writes the distances into ``out``."""
    sizes = mask.shape[2:]
    root, weights = _weights([step for step, size in zip(spacing, sizes, strict=True) if size > 1])
    axes = [axis for axis, size in enumerate(sizes) if size > 1]
    weight = dict(zip(axes, weights, strict=True))
    last = len(sizes) - 1
    others = [axis for axis in reversed(axes) if axis != last]
    # A pass cannot write where its neighbours read: two buffers, the last of them the output.
    buffers = [out, torch.empty_like(out)] if others else [out]
    finish = {"LAST": False, "SQUARED": False, "NEGATE": False}
    final = {"LAST": True, "SQUARED": squared, "NEGATE": side == "signed"}
    shared = {"voxels": mask.numel(), "root": root}
    grid = ((mask.numel() + BLOCK - 1) // BLOCK,)
    to = buffers[len(others) % 2] if others else out
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
