"""Definitions of the losses over components in float64, one item, class and component at a time.

Nothing here comes from the package: components are SciPy's, cells are found voxel by voxel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from tests import oracles
from tests.oracles import Volume, log

Piece = tuple[Tensor, float, bool]  # a loss, its share, and whether it stands for no component
Pieces = Callable[[Volume, int, int], list[Piece]]


def components(volume: Volume, mask: Tensor, default: str = "full") -> np.ndarray:
    """Return the number of each voxel's component, flat."""
    axes = len(volume.size)
    name = volume.option("connectivity", None) or default
    differing = {"faces": 1, "edges": 2, "full": axes}[name]
    structure = ndimage.generate_binary_structure(axes, differing)
    found, _ = ndimage.label(mask.numpy().reshape(volume.size), structure)
    return np.asarray(found).reshape(-1)


def cells(volume: Volume, labels: np.ndarray) -> np.ndarray:
    """Return the number of the component nearest to each voxel, the smallest at ties."""
    spacing = volume.option("spacing", None)
    axes = len(volume.size)
    steps = np.broadcast_to(np.asarray(1.0 if spacing is None else spacing, float), (axes,))
    places = np.stack(np.unravel_index(np.arange(labels.size), volume.size), 1) * steps
    nearest = np.zeros_like(labels)
    least = np.full(labels.shape, np.inf)
    for k in range(1, int(labels.max(initial=0)) + 1):
        of_k = places[labels == k]
        for begin in range(0, len(places), 512):
            part = slice(begin, begin + 512)
            apart = ((places[part, None] - of_k[None]) ** 2).sum(2).min(1)
            nearer = apart < least[part] * (1 - 1e-12)
            least[part] = np.where(nearer, apart, least[part])
            nearest[part] = np.where(nearer, k, nearest[part])
    return nearest


def target_mask(volume: Volume, b: int, c: int) -> Tensor:
    """Return the voxels of a class that count as foreground, flat."""
    return (volume.t[b, c] > 0.5) & volume.counted[b, c]


def cross_entropy(volume: Volume, b: int, c: int) -> Tensor:
    """Return the binary cross-entropy of a class against all others, for each voxel."""
    q, t = volume.q[b, c], volume.t[b, c]
    return -(torch.where(t > 0, t * log(q), 0) + torch.where(t < 1, (1 - t) * log(1 - q), 0))


def dice_of(volume: Volume, tp: Tensor, pred: Tensor, target: Tensor) -> Tensor:
    """Return the Dice loss of three sums."""
    nr, dr = volume.option("smooth_nr", 1e-5), volume.option("smooth_dr", 1e-5)
    size = pred + target + dr
    return 1 - torch.div(2 * tp + nr, size) if size != 0 else 0 * size


def over(value: Tensor, by: Tensor) -> Tensor:
    """Divide, or return the numerator where there is nothing to divide by."""
    return value / by if by != 0 else value


def both(volume: Volume, dice: Tensor, entropy: Tensor) -> Tensor:
    """Return the weighted sum of Dice and cross-entropy."""
    factors = volume.option("lambda_dice", 1.0), volume.option("lambda_ce", 1.0)
    result: Tensor = factors[0] * dice + factors[1] * entropy
    return result


def in_cells(volume: Volume, b: int, c: int, where: np.ndarray, empty: str = "dice") -> list[Piece]:
    """Return Dice and cross-entropy of each cell; of the whole where there is none."""
    p, t, w = volume.p[b, c], volume.t[b, c], volume.w[b, c]
    entropy = cross_entropy(volume, b, c)
    found: list[Piece] = []
    power = volume.option("size_power", 0.0)
    numbers = range(1, int(where.max(initial=0)) + 1)
    for k in [*numbers] or [0]:
        own = torch.from_numpy(where == k)
        weight = w[own].sum()
        if weight == 0:
            continue
        target = (w * t)[own].sum()
        dice = dice_of(volume, (w * p * t)[own].sum(), (w * p)[own].sum(), target)
        if empty == "detached" and k > 0 and target == 0:
            dice = (w * p * p.detach())[own].sum() / (w * p.detach())[own].sum().clamp_min(1e-8)
        loss = both(volume, dice, over((w * entropy)[own].sum(), weight))
        share = float(target) ** -power if target > 0 and power else 1.0
        found.append((loss, share, k == 0))
    return found


def blobs(volume: Volume, b: int, c: int) -> list[Piece]:
    """Kofler 2022: each component on the volume without the others."""
    p, t, w = volume.p[b, c], volume.t[b, c], volume.w[b, c]
    entropy = cross_entropy(volume, b, c)
    labels = torch.from_numpy(components(volume, target_mask(volume, b, c)))
    rest = t == 0
    power = volume.option("size_power", 0.0)
    found: list[Piece] = []
    for k in range(int(labels.max()) + 1 if labels.numel() else 0):
        own = rest | ((labels == k) & (t > 0))
        target = (w * t)[own].sum()
        if k == 0 or target == 0:
            continue
        dice = dice_of(volume, (w * p * t)[own].sum(), (w * p)[own].sum(), target)
        loss = both(volume, dice, over((w * entropy)[own].sum(), w[own].sum()))
        found.append((loss, float(target) ** -power if power else 1.0, False))
    if not found and w.sum() != 0:
        zero = 0 * (w * p)[rest].sum()
        dice = dice_of(volume, zero, (w * p)[rest].sum(), zero)
        loss = both(volume, dice, over((w * entropy)[rest].sum(), w[rest].sum()))
        found.append((loss, 1.0, True))
    return found


def settled(volume: Volume, absent: str) -> Volume:
    """Return the problem with the defaults that these losses have."""
    background = volume.p.shape[1] == 1
    options = {"include_background": background, "absent": absent, **volume.options}
    return replace(volume, options=options)


def reduced(volume: Volume, pieces: Pieces, *, keeps_empty: bool = False) -> Tensor:
    """Reduce the mean over the pieces of each item and class; class 0 has a row in any case.

    Args:
        volume: With all options.
        pieces: The losses of an item and class.
        keeps_empty: Whether what stands for no component counts whatever ``absent`` says.
    """
    o = volume.option
    kept = keeps_empty or o("absent", None) == "keep"

    def mean(items: list[int], c: int) -> Tensor:
        each = [piece for b in items for piece in pieces(volume, b, c)]
        factors = [share * float(kept or not empty) for _, share, empty in each]
        zero = volume.p.sum() * 0
        if not any(factors):
            return zero
        return sum((f * loss for f, (loss, _, _) in zip(factors, each, strict=True)), zero) / sum(
            factors
        )

    return by_class(volume, mean)


def by_class(volume: Volume, value: Callable[[list[int], int], Tensor]) -> Tensor:
    """Reduce the losses of classes, given the items that are pooled."""
    o = volume.option
    batch, classes, _ = volume.p.shape
    items = [list(range(batch))] if o("batch", False) else [[b] for b in range(batch)]
    start = 0 if o("include_background", True) else 1
    class_weight = o("class_weight", None) or [1.0] * classes
    rows, factors = [], []
    for pool in items:
        for c in range(classes):
            target, weight = (volume.w * volume.t)[pool, c].sum(), volume.w[pool, c].sum()
            there = bool(target != 0)
            drop = c < start or weight == 0 or (o("absent", None) == "zero" and not there)
            rows.append(volume.p.sum() * 0 if drop else value(pool, c))
            counts = c >= start and (o("absent", None) != "skip" or there)
            factors.append(class_weight[c] * float(counts))
    loss, factor = torch.stack(rows), torch.tensor(factors, dtype=torch.float64)
    if o("reduction", "mean") == "none":
        result = (loss * factor).view(len(items), -1)
        return result[0] if o("batch", False) else result
    total = (loss * factor).sum()
    whole = o("reduction", "mean") == "sum" or factor.sum() == 0
    return total if whole else total / factor.sum()


def with_global(volume: Volume, loss: Tensor, given: dict[str, Any]) -> Tensor:
    """Add Dice with cross-entropy of the whole volume, with the keywords that were given."""
    factor = volume.option("lambda_global", 1.0)
    if factor == 0:
        return loss
    options = {"include_background": volume.option("include_background", True), **given}
    whole = oracles.compound(
        oracles.dice, oracles.cross_entropy, ("lambda_dice", "lambda_ce"), background=True
    )(replace(volume, options=options))
    result: Tensor = loss + factor * whole
    return result


def blob(volume: Volume) -> Tensor:
    """Kofler 2022, with the whole."""
    own = settled(volume, "skip")
    return with_global(own, reduced(own, blobs), volume.options)


def _target_pieces(volume: Volume, b: int, c: int) -> list[Piece]:
    labels = components(volume, target_mask(volume, b, c))
    return in_cells(volume, b, c, cells(volume, labels))


def component_dice_ce(volume: Volume) -> Tensor:
    """Bouteille 2025, with the whole."""
    own = settled(volume, "keep")
    return with_global(own, reduced(own, _target_pieces), volume.options)


def bidirectional_component(volume: Volume) -> Tensor:
    """BiCC 2026, with the whole."""
    own = settled(volume, "keep")
    alpha = own.option("alpha", 0.5)

    def predicted(volume: Volume, b: int, c: int) -> list[Piece]:
        above = volume.p[b, c].detach() > volume.option("threshold", 0.5)
        labels = components(volume, above & volume.counted[b, c])
        empty = volume.option("empty", "detached")
        return in_cells(volume, b, c, cells(volume, labels), empty)

    loss = (1 - alpha) * reduced(own, _target_pieces)
    loss = loss + alpha * reduced(own, predicted, keeps_empty=True)
    return with_global(own, loss, volume.options)


def component_tversky(volume: Volume) -> Tensor:
    """Luu 2026, with the whole."""
    own = settled(volume, "skip")
    o = own.option
    nr, dr = o("smooth_nr", 1e-5), o("smooth_dr", 1e-5)

    def value(items: list[int], c: int) -> Tensor:
        right = missing = wrong = own.p.sum() * 0
        for b in items:
            p, t, w = own.p[b, c], own.t[b, c], own.w[b, c]
            labels = torch.from_numpy(components(own, target_mask(own, b, c), "faces"))
            wrong = wrong + o("background_weight", 0.01) * (w * p * (1 - t)).sum()
            for k in range(1, int(labels.max()) + 1 if labels.numel() else 0):
                in_k = labels == k
                size = (w * t)[in_k].sum()
                if size == 0:
                    continue
                v = (size + o("offset", 5.0)) ** -o("gamma", 1.0)
                right = right + v * (w * p * t)[in_k].sum()
                missing = missing + v * (w * (1 - p) * t)[in_k].sum()
        below = right + o("alpha", 0.3) * wrong + o("beta", 0.7) * missing + dr
        return 1 - torch.div(right + nr, below) if below != 0 else 0 * below

    return with_global(own, by_class(own, value), volume.options)
