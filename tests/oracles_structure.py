"""Definitions in float64 of the losses that look at neighbours: clDice, structural similarity.

Every window is a stack of shifted maps: slow, and nothing of the package.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from tests.oracles import Volume, cross_entropy, dice, log, voxelwise

Offsets = list[tuple[int, ...]]


def shifted(x: Tensor, offsets: Offsets, fill: float) -> Tensor:
    """Return the maps ``[*S]`` shifted by each offset, ``[N, *S]``, with a value from outside."""
    reach = max(abs(step) for offset in offsets for step in offset)
    wide = pad(x, [reach] * (2 * x.dim()), value=fill)
    return torch.stack(
        [
            wide[tuple(slice(reach + d, reach + d + n) for d, n in zip(o, x.shape, strict=True))]
            for o in offsets
        ]
    )


def skeleton(x: Tensor, iterations: int) -> Tensor:
    """Shit 2021, of one map ``[*S]``."""
    cube = list(itertools.product((-1, 0, 1), repeat=x.dim()))
    cross = [offset for offset in cube if sum(map(abs, offset)) <= 1]
    found = torch.zeros_like(x)
    for level in range(iterations + 1):
        eroded = shifted(x, cross, math.inf).amin(0)
        delta = (x - shifted(eroded, cube, -math.inf).amax(0)).relu()
        found = delta if level == 0 else found + (delta - found * delta).relu()
        x = eroded
    return found


def cl_dice(volume: Volume) -> Tensor:
    """Shit 2021 as in MONAI: one ratio of all classes of an item, or of the batch."""
    o = volume.option
    rows = _item_losses(volume)
    if o("reduction", "mean") == "none":
        return rows if o("batch", False) else rows[:, None]
    return rows.sum() if o("reduction", "mean") == "sum" else rows.mean()


def _item_losses(volume: Volume) -> Tensor:
    o = volume.option
    nr, dr, k = o("smooth_nr", 1.0), o("smooth_dr", 1.0), o("iterations", 3)
    batch, classes, _ = volume.p.shape
    start = 0 if o("include_background", True) else 1
    class_weight = o("class_weight", None) or [1.0] * classes
    losses = []
    for items in [list(range(batch))] if o("batch", False) else [[b] for b in range(batch)]:
        sums = torch.zeros(4, dtype=torch.float64)
        for c in range(start, classes):
            present = sum((volume.w[b, c] * volume.t[b, c]).sum() for b in items) != 0
            weight = class_weight[c] * float(o("absent", "keep") == "keep" or bool(present))
            for b in items:
                w = volume.w[b, c]
                p, t = volume.p[b, c] * volume.counted[b, c], volume.t[b, c]
                s_p, s_t = (skeleton(x.view(volume.size), k).flatten() for x in (p, t))
                parts = [w * s_p * t, w * s_p, w * s_t * p, w * s_t]
                sums = sums + weight * torch.stack([part.sum() for part in parts])
        shown = [(volume.w * volume.t)[items, c].sum() != 0 for c in range(start, classes)]
        as_zero = o("absent", "keep") == "zero" and not any(shown)
        if as_zero or bool((volume.w[items] == 0).all()):
            losses.append(sums.sum() * 0)
            continue
        one = torch.ones((), dtype=torch.float64)
        precision = (sums[0] + nr) / (sums[1] + dr) if sums[1] + dr != 0 else one
        sensitivity = (sums[2] + nr) / (sums[3] + dr) if sums[3] + dr != 0 else one
        losses.append(1 - 2 * precision * sensitivity / (precision + sensitivity + 1e-4))
    return torch.stack(losses)


def dice_cl_dice(volume: Volume) -> Tensor:
    """MONAI: their weighted mean; each row of an item has its one clDice."""
    alpha = volume.option("alpha", 0.5)
    volume.options = {"smooth_nr": 1.0, "smooth_dr": 1.0, **volume.options}
    result: Tensor = (1 - alpha) * dice(volume) + alpha * cl_dice(volume)
    return result


def structural_errors(volume: Volume) -> Tensor:
    """Zhao 2019: e of every voxel, ``[B, C, V]``."""
    size, sigma = volume.option("window_size", 3), volume.option("sigma", 1.5)
    steps = range(-(size // 2), size // 2 + 1)
    offsets = list(itertools.product(steps, repeat=len(volume.size)))
    window = [math.exp(-sum(d * d for d in offset) / (2 * sigma**2)) for offset in offsets]
    g = torch.tensor(window, dtype=torch.float64).view(-1, *[1] * len(volume.size))
    g = g / g.sum()

    def normalized(x: Tensor) -> Tensor:
        around = shifted(x.view(volume.size), offsets, 0)
        mean = (g * around).sum(0)
        variance = (g * (around - mean) ** 2).sum(0)
        some = variance > 1e-28  # not its rounding
        deviation = torch.where(some, torch.where(some, variance, 1).sqrt(), 0)
        c = volume.option("c", 0.01)
        result: Tensor = (x.view(volume.size) - mean + c) / (deviation + c)
        return result.flatten()

    rows = [
        torch.stack(
            [(normalized(t) - normalized(p * on)).abs() for p, t, on in zip(*item, strict=True)]
        )
        for item in zip(volume.p, volume.t, volume.counted, strict=True)
    ]
    return torch.stack(rows)


def structural_similarity(volume: Volume) -> Tensor:
    """Zhao 2019: the mean of e CE where e is large, and the plain cross-entropy."""
    o, q, t = volume.option, volume.q, volume.t
    start = 0 if o("include_background", True) else 1
    error = structural_errors(volume)
    known = (error * volume.counted).detach()[:, start:].flatten(1)
    largest = known.amax().expand(len(known)) if o("batch", False) else known.amax(1)
    hard = (error > o("beta", 0.1) * largest[:, None, None]) & volume.counted
    loss = -t * log(q) if volume.categorical else -t * log(q) - (1 - t) * log(1 - q)
    class_weight = o("class_weight", None) or [1.0] * q.shape[1]
    part = voxelwise(volume, hard * error * loss, hard.double(), class_weight)
    share = o("lambda_ce", 0.5)
    result: Tensor = share * cross_entropy(volume) + (1 - share) * part
    return result
