"""Definitions of TopK and generalised Wasserstein Dice in float64 (see tests/oracles.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.oracles import Volume, log


def topk(volume: Volume) -> Tensor:
    """Wu 2016: the mean of the hardest voxels, by a full sort; ties share."""
    o, q, t, w = volume.option, volume.q, volume.t, volume.w
    classes = q.shape[1]
    start = 0 if o("include_background", True) else 1
    v = torch.tensor(o("class_weight", None) or [1.0] * classes, dtype=torch.float64)
    each = -t * log(q)
    if not volume.categorical:
        each = (each - (1 - t) * log(1 - q)) / v[start:].sum()
    parts = (v.view(1, -1, 1) * w * each)[:, start:]  # [B, C', V]
    selected = hardest(volume, parts.detach().sum(1), start)  # [B, V]
    sums, count = (parts * selected[:, None]).sum(2), selected.sum(1, keepdim=True)
    if o("reduction", "mean") == "sum":
        return sums.sum() * (1 if volume.categorical else v[start:].sum())
    if o("reduction", "mean") == "mean":
        return sums.sum() / count.sum().clamp_min(1)
    if o("batch", False):
        sums, count = sums.sum(0, keepdim=True), count.sum(0, keepdim=True)
    rows = sums / torch.where(count == 0, 1, count)
    return rows[0] if o("batch", False) else rows


def hardest(volume: Volume, loss: Tensor, start: int) -> Tensor:
    """Return how much of each voxel is among the hardest, ``[B, V]``."""
    share = volume.w * volume.t if volume.categorical else volume.w
    counts = (share[:, start:] != 0).any(1)
    number = int(counts.sum())
    if number == 0:
        return torch.zeros_like(loss)
    number = max(1, int(number * volume.option("k", 10.0) / 100))
    last = loss[counts].sort(descending=True).values[number - 1]
    above, ties = counts & (loss > last), counts & (loss == last)
    return above + ties * ((number - above.sum()) / ties.sum())


def wasserstein_dice(volume: Volume) -> Tensor:
    """Fidon 2017, and with weighting "GDL" Tilborghs 2020: voxel by voxel, item by item."""
    o, classes = volume.option, volume.p.shape[1]
    distances = torch.tensor(
        o("distance_matrix", None) or (1 - torch.eye(classes)).tolist(), dtype=torch.float64
    )
    distances = distances / distances.max()
    v = torch.tensor(o("class_weight", None) or [1.0] * classes, dtype=torch.float64)
    start = 0 if o("include_background", True) else 1
    batch = volume.p.shape[0]
    items = [list(range(batch))] if o("batch", False) else [[b] for b in range(batch)]
    losses, kept = [], []
    for item in items:
        p, t = (part[item].movedim(1, 0).flatten(1) for part in (volume.p, volume.t))
        t = t * volume.w[item].movedim(1, 0).flatten(1)  # [C, V]
        error = distances @ p  # of a voxel, were it of class l
        size = t.sum(1)
        alpha = v / (size + 1) if o("weighting", "default") == "GDL" else v.clone()
        true, all_errors = torch.zeros((), dtype=torch.float64), torch.zeros(())
        for c in range(start, classes):
            if c > 0 or o("weighting", "default") == "GDL":
                true = true + alpha[c] * (t[c] * (1 - error[c])).sum()
            all_errors = all_errors + alpha[c] * (t[c] * error[c]).sum()
        nr, dr = o("smooth_nr", 1e-5), o("smooth_dr", 1e-5)
        losses.append(1 - (2 * true + nr) / (2 * true + all_errors + dr))
        kept.append(o("absent", "keep") == "keep" or bool((size[1:] != 0).any()))
    loss, keep = torch.stack(losses), torch.tensor(kept, dtype=torch.float64)
    if o("absent", "keep") == "zero":
        loss, keep = loss * keep, torch.ones_like(keep)
    if o("reduction", "mean") == "none":
        rows = (loss * keep)[:, None]
        return rows[0] if o("batch", False) else rows
    total = (loss * keep).sum()
    return total if o("reduction", "mean") == "sum" else total / keep.sum().clamp_min(1)
