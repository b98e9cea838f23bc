"""The definition of soft_skeleton, in plain differentiable PyTorch on any device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segloss_fast.ops._voxels.pieces import PIECE, as_defined, computed_again, is_plain
from segloss_fast.ops.soft_skeleton import reference_levels

_POOLING = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


def forward(values: Tensor, iterations: int, first: int) -> Tensor:
    """Return the skeletons, of the values' shape and dtype.

    Args:
        values: ``[B, C, *S]``, floating point, or bool for masks.
        iterations: Number of erosions after the first.
        first: Skeletons of classes below it are 0.
    """
    if values.numel() == 0:
        return values.clone()
    if not is_plain(values):
        return _by_class(values, iterations, first)
    if values.dtype == torch.bool:
        # Bytes of others' memory may be any: all but 0 are true.
        ones = values.view(torch.uint8).ne(0).view(torch.int8)
        return _in_groups(ones, iterations, first).view(torch.bool)
    if not _all_finite(values):
        return _by_class(values, iterations, first)
    found: Tensor = _Skeletons.apply(values, iterations, first)  # type: ignore[no-untyped-call]
    return found


def _by_class(values: Tensor, iterations: int, first: int) -> Tensor:
    """Return the skeletons as they are defined.

    One class at a time, so that where a gradient follows, which computes the skeleton again, the
    maps in between are those of one class.
    """
    rows = []
    for c in range(values.shape[1]):
        plane = values[:, c : c + 1]
        if c < first:
            rows.append(torch.zeros_like(plane))
        elif values.dtype == torch.bool:
            rows.append(skeleton(plane.to(torch.float32), iterations) != 0)
        elif torch.is_grad_enabled() and values.requires_grad:
            rows.append(computed_again(skeleton, plane, iterations))
        else:
            rows.append(skeleton(plane, iterations))
    return torch.cat(rows, 1)


def skeleton(values: Tensor, iterations: int) -> Tensor:
    """Return the skeletons of ``[B, C, *S]``, floating point."""
    found = values.new_zeros(())
    for level in range(iterations + 1):
        eroded = _erode(values)
        delta = (values - _dilate(eroded)).relu()
        found = found + (delta - found * delta).relu() if level else delta
        values = eroded
    return found


def _erode(values: Tensor) -> Tensor:
    """Return the minimum over a voxel and its face neighbours, axis by axis."""
    axes = values.dim() - 2
    minimum = None
    for axis in range(axes):
        size = [3 if other == axis else 1 for other in range(axes)]
        along = -_POOLING[axes - 1](-values, size, 1, [side // 2 for side in size])
        minimum = along if minimum is None else torch.minimum(minimum, along)
    assert minimum is not None
    return minimum


def _dilate(values: Tensor) -> Tensor:
    """Return the maximum over a cube of three voxels a side."""
    return _POOLING[values.dim() - 3](values, 3, 1, 1)


def _all_finite(values: Tensor) -> bool:
    """Whether no value is infinite or NaN; False too if the values add up to more than fits."""
    wide = torch.float64 if values.dtype == torch.float64 else torch.float32
    return bool(values.detach().sum(dtype=wide).isfinite())


def _groups(shape: torch.Size, first: int) -> Iterator[tuple[slice, slice]]:
    """Yield items and classes whose maps are computed at once: small ones, or one large."""
    items, classes, voxels = shape[0], shape[1], shape[2:].numel()
    room = max(1, PIECE // voxels)
    together = max(1, min(room, classes - first))
    group = max(1, room // together)
    for item in range(0, items, group):
        for c in range(first, classes, together):
            yield slice(item, item + group), slice(c, c + together)


def _in_groups(values: Tensor, iterations: int, first: int) -> Tensor:
    """Return the skeletons of floating-point values, or of int8 that are 0 and 1."""
    found = torch.empty_like(values)
    found[:, :first] = 0
    for group in _groups(values.shape, first):
        found[group] = reference_levels.skeletons(values[group], iterations)
    return found


class _Skeletons(torch.autograd.Function):
    """The skeletons of finite values, and their gradient, which computes them again."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, iterations: int, first: int) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(values)
        ctx.options = iterations, first
        return _in_groups(values, iterations, first)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (values,), (iterations, first) = ctx.saved_tensors, ctx.options
        defined = as_defined(
            lambda values: (_by_class(values, iterations, first), None), [values], [True], grad
        )
        if defined is not None:
            return defined[0], None, None
        out = torch.empty_like(values)
        out[:, :first] = 0
        for group in _groups(values.shape, first):
            levels = reference_levels.Levels(values[group].detach(), iterations)
            out[group] = levels.differentiate(grad[group])
        return out, None, None
