"""Definitions of the boundary losses in float64, written from the papers, over brute-force fields.

Distances come from all pairs of voxels: slow, and nothing of the package.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.oracles import Volume, categorical_mean, log, voxelwise


def nearest(mask: Tensor, size: tuple[int, ...], spacing: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return the distances inside and outside of a mask ``[V]``; 0 without a boundary."""
    steps = tuple(spacing) if isinstance(spacing, (list, tuple)) else (spacing or 1,) * len(size)
    return _nearest(tuple(mask.nonzero().flatten().tolist()), size, steps)


@functools.lru_cache(maxsize=256)  # the same masks come with every set of keywords
def _nearest(
    voxels: tuple[int, ...], size: tuple[int, ...], steps: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    grid = list(itertools.product(*(range(side) for side in size)))
    place = torch.tensor(grid, dtype=torch.float64) * torch.tensor(steps, dtype=torch.float64)
    inside = torch.zeros(len(grid), dtype=torch.float64)
    outside = torch.zeros_like(inside)
    mask = torch.zeros(len(grid), dtype=torch.bool)
    mask[list(voxels)] = True
    if mask.any() and not mask.all():
        apart = torch.cdist(
            place[mask], place[~mask], compute_mode="donot_use_mm_for_euclid_dist"
        )  # [inside, outside]
        inside[mask], outside[~mask] = apart.amin(1), apart.amin(0)
    return inside, outside


def fields(
    volume: Volume, masks: Tensor, field: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Return field(mask, inside, outside) of every item and class, ``[B, C, V]``."""
    spacing = volume.option("spacing", None)
    counted = volume.counted
    found = torch.stack(
        [
            torch.stack(
                [
                    field(mask & on, *nearest(mask & on, volume.size, spacing))
                    for mask, on in zip(item, counted[b], strict=True)
                ]
            )
            for b, item in enumerate(masks)
        ]
    )
    return found.to(volume.p.dtype)


def both(mask: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Either side's distances."""
    return inside + outside


def means(volume: Volume, loss: Tensor) -> Tensor:
    """Reduce the means over the voxels of each item and class of a map ``[B, C, V]``."""
    o = volume.option
    classes = loss.shape[1]
    start = 0 if o("include_background", True) else 1
    part, norm = (volume.w * loss).sum(2), volume.w.sum(2)
    if o("batch", False):
        part, norm = part.sum(0, keepdim=True), norm.sum(0, keepdim=True)
    rows = (part / torch.where(norm == 0, 1, norm))[:, start:]
    weight = torch.tensor(o("class_weight", None) or [1.0] * classes, dtype=torch.float64)[start:]
    weighted = rows * weight
    if o("reduction", "mean") == "none":
        return weighted[0] if o("batch", False) else weighted
    if o("reduction", "mean") == "sum":
        return weighted.sum()
    return weighted.sum() / weight.expand_as(rows).sum()


def hausdorff_dt(volume: Volume) -> Tensor:
    """Karimi and Salcudean 2019, distance transforms."""
    alpha = volume.option("alpha", 2.0)
    d_p = fields(volume, volume.p.detach() > 0.5, both)
    d_t = fields(volume, volume.t > 0.5, both)
    return means(volume, (volume.p - volume.t) ** 2 * (d_p**alpha + d_t**alpha))


def log_hausdorff_dt(volume: Volume) -> Tensor:
    """MONAI's logarithm of it."""
    return torch.log(1 + hausdorff_dt(volume))


def boundary(volume: Volume) -> Tensor:
    """Kervadec 2019."""
    spacing = volume.option("spacing", None)
    step = min(spacing) if isinstance(spacing, (list, tuple)) else float(spacing or 1)

    def signed(mask: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
        return outside - torch.where(inside > 0, inside - step, 0)

    return means(volume, volume.p * fields(volume, volume.t > 0.5, signed))


def _weighted_ce(volume: Volume, factor: Tensor) -> Tensor:
    q, t = volume.q, volume.t
    weight = volume.option("class_weight", None) or [1.0] * q.shape[1]
    if volume.categorical:
        return categorical_mean(volume, -factor * t * log(q), weight)
    loss = -factor * (t * log(q) + (1 - t) * log(1 - q))
    return voxelwise(volume, loss, torch.ones_like(t), weight)


def distance_penalized_ce(volume: Volume) -> Tensor:
    """Caliva 2019."""

    def phi(mask: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
        if not mask.any() or mask.all():
            return torch.zeros_like(inside)
        return torch.where(mask, 1 - inside / inside.max(), 1 - outside / outside.max())

    return _weighted_ce(volume, 1 + fields(volume, volume.t > 0.5, phi))


def shape_aware(volume: Volume) -> Tensor:
    """Al Arif 2018."""
    distance = fields(volume, volume.t > 0.5, both)
    if volume.categorical:
        wrong = (volume.q.argmax(1) != volume.t.argmax(1))[:, None]
    else:
        wrong = (volume.q > 0.5) != (volume.t > 0.5)
    return _weighted_ce(volume, 1 + distance * wrong)


def hausdorff_er(volume: Volume) -> Tensor:
    """Karimi and Salcudean 2019, erosions; normalised as kornia 0.9."""
    alpha, iterations = volume.option("alpha", 2.0), volume.option("iterations", 10)
    rows = []
    for p, t, on in zip(
        volume.p.flatten(0, 1), volume.t.flatten(0, 1), volume.counted.flatten(0, 1), strict=True
    ):
        error = ((p - t) ** 2 * on).view(volume.size)
        total = torch.zeros_like(error)
        for i in range(iterations):
            sides = len(volume.size)
            around = torch.nn.functional.pad(error, [1, 1] * sides)
            mean = error
            for axis in range(sides):
                for shift in (-1, 1):
                    rolled = around.roll(shift, axis)
                    for other in range(sides):
                        rolled = rolled.narrow(other, 1, volume.size[other])
                    mean = mean + rolled
            error = torch.relu(mean / (2 * sides + 1) - 0.5)
            if error.max() > error.min():
                error = (error - error.min()) / (error.max() - error.min())
            total = total + error * (i + 1) ** alpha
        rows.append(total.flatten())
    return means(volume, torch.stack(rows).view_as(volume.p))
