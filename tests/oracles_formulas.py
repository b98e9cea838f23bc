"""Definitions of the losses that are formulas of sums, in float64, written from the papers.

Nothing here comes from the package: these are what it is tested against.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.oracles import Volume, agreement, focal, log, per_class, voxelwise


def number(volume: Volume, name: str, default: float) -> float:
    """Return a keyword that is a number."""
    return float(volume.option(name, default))


def focal_tversky(volume: Volume) -> Tensor:
    """Abraham and Khan 2019: a root of the Tversky loss."""
    alpha, beta = number(volume, "alpha", 0.3), number(volume, "beta", 0.7)
    gamma = number(volume, "gamma", 4 / 3)

    def loss(p: Tensor, t: Tensor, w: Tensor, c: int) -> Tensor:
        return (1 - tversky_index(volume, p, t, w, alpha, beta)) ** (1 / gamma)

    return per_class(volume, loss)


def tversky_index(
    volume: Volume, p: Tensor, t: Tensor, w: Tensor, alpha: float, beta: float
) -> Tensor:
    """Salehi 2017; 1 where nothing is left to divide by."""
    nr, dr = number(volume, "smooth_nr", 1e-5), number(volume, "smooth_dr", 1e-5)
    both = agreement(volume, p, t)
    tp, fp, fn = (w * both).sum(), (w * (p - both)).sum(), (w * (t - both)).sum()
    size = tp + alpha * fp + beta * fn + dr
    return (tp + nr) / size if size != 0 else torch.ones_like(tp)


def log_cosh_dice(volume: Volume) -> Tensor:
    """Jadon 2020."""

    def loss(p: Tensor, t: Tensor, w: Tensor, c: int) -> Tensor:
        return torch.log(torch.cosh(1 - dice_index(volume, p, t, w)))

    return per_class(volume, loss)


def dice_index(volume: Volume, p: Tensor, t: Tensor, w: Tensor) -> Tensor:
    """Milletari 2016, Sudre 2017."""
    nr, dr = number(volume, "smooth_nr", 1e-5), number(volume, "smooth_dr", 1e-5)
    power = 2 if volume.option("squared", False) else 1
    both = agreement(volume, p, t)
    return (2 * (w * both).sum() + nr) / ((w * p**power).sum() + (w * t**power).sum() + dr)


def sensitivity_specificity(volume: Volume) -> Tensor:
    """Brosch 2015: squared errors inside and outside of the target, each over its size."""
    dr, r = number(volume, "smooth_dr", 1e-5), number(volume, "r", 0.05)

    def share(error: Tensor, size: Tensor) -> Tensor:
        return (error.sum() / (size.sum() + dr)) if size.sum() + dr != 0 else error.sum() * 0

    def loss(p: Tensor, t: Tensor, w: Tensor, c: int) -> Tensor:
        inside, outside = w * t, w * (1 - t)
        error = (t - p) ** 2
        return r * share(error * inside, inside) + (1 - r) * share(error * outside, outside)

    return per_class(volume, loss)


def mcc(volume: Volume) -> Tensor:
    """Abhishek and Hamarneh 2021; 1 - 0 where the coefficient is 0 / 0, 0 without any error."""
    nr, dr = number(volume, "smooth_nr", 1e-5), number(volume, "smooth_dr", 1e-5)

    def loss(p: Tensor, t: Tensor, w: Tensor, c: int) -> Tensor:
        tp, tn = (w * p * t).sum(), (w * (1 - p) * (1 - t)).sum()
        fp, fn = (w * p * (1 - t)).sum(), (w * (1 - p) * t).sum()
        square = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn) + dr
        if (fp == 0 and fn == 0) or square == 0:
            return tp * 0 + float(square == 0 and not (fp == 0 and fn == 0))
        return 1 - (tp * tn - fp * fn + nr) / square.sqrt()

    return per_class(volume, loss)


def generalized_dice(volume: Volume) -> Tensor:
    """Sudre 2017: one ratio of all classes, whose sums weigh by a power of the class's size."""
    o = volume.option
    nr, dr = number(volume, "smooth_nr", 1e-5), number(volume, "smooth_dr", 1e-5)
    exponent = {"square": -2, "simple": -1, "uniform": 0}[o("weighting", "square")]
    batch, classes, _ = volume.p.shape
    start = 0 if o("include_background", True) else 1
    class_weight = o("class_weight", None) or [1.0] * classes
    rows = []
    for item in [slice(None)] if o("batch", False) else [slice(b, b + 1) for b in range(batch)]:
        p, t, w = (part[item, start:].movedim(1, 0).flatten(1) for part in _parts(volume))
        sizes = [float((w[c] * t[c]).sum()) for c in range(len(p))]
        known = [size**exponent for size in sizes if size != 0]
        others = (
            max(known, default=0.0 if exponent else 1.0) if o("absent", "keep") == "keep" else 0
        )
        weights = [size**exponent if size != 0 else others for size in sizes]
        numerator, denominator = p.sum() * 0 + nr, p.sum() * 0 + dr
        weights = [weight / (sum(weights) or 1.0) for weight in weights]
        for c, weight in enumerate(weights):
            weight *= class_weight[start + c]
            numerator = numerator + 2 * weight * (w[c] * p[c] * t[c]).sum()
            denominator = denominator + weight * (w[c] * (p[c] + t[c])).sum()
        nothing = bool((w == 0).all() or denominator == 0)
        nothing = nothing or (o("absent", "keep") == "zero" and not any(sizes))
        rows.append(p.sum() * 0 if nothing else 1 - numerator / denominator)
    loss = torch.stack(rows)
    if o("reduction", "mean") == "none":
        return loss if o("batch", False) else loss[:, None]
    return loss.sum() if o("reduction", "mean") == "sum" else loss.mean()


def _parts(volume: Volume) -> tuple[Tensor, Tensor, Tensor]:
    return volume.p, volume.t, volume.w


def generalized_dice_focal(volume: Volume) -> Tensor:
    """MONAI: their weighted sum; each row of an item has its one generalised Dice."""
    return number(volume, "lambda_gdl", 1.0) * generalized_dice(volume) + number(
        volume, "lambda_focal", 1.0
    ) * focal(volume)


def balanced_cross_entropy(volume: Volume) -> Tensor:
    """Xie and Tu 2015: positives weigh by the share of negatives, and the other way round."""
    pooled = (0, 2) if volume.option("batch", False) else (2,)
    size = volume.w.sum(pooled, keepdim=True)
    negatives = (volume.w * (1 - volume.t)).sum(pooled, keepdim=True)
    beta = negatives / torch.where(size == 0, 1, size)
    return _binary(volume, beta)


def _binary(volume: Volume, beta: Tensor | float) -> Tensor:
    q, t = volume.q, volume.t
    loss = -(beta * t * log(q) + (1 - beta) * (1 - t) * log(1 - q))
    weight = volume.option("class_weight", None) or [1.0] * q.shape[1]
    return voxelwise(volume, loss, torch.ones_like(t), weight)


def combo(volume: Volume) -> Tensor:
    """Taghanaki 2018."""
    alpha, beta = number(volume, "alpha", 0.5), number(volume, "beta", 0.5)
    dice = per_class(volume, lambda p, t, w, c: -dice_index(volume, p, t, w))
    return alpha * _binary(volume, beta) + (1 - alpha) * dice


def exp_log(volume: Volume) -> Tensor:
    """Wong 2018: powers of the logarithms of Dice, and of each voxel's probability."""
    o = volume.option
    gamma = number(volume, "gamma", 0.3)

    def loss(p: Tensor, t: Tensor, w: Tensor, c: int) -> Tensor:
        dice = dice_index(volume, p, t, w)
        if dice == 0:  # the logarithm, clamped, is a constant
            return dice * 0 + math.pow(100, gamma)
        return torch.pow(-log(dice), gamma)

    dice = per_class(volume, loss)
    q, t, w = volume.q, volume.t, volume.w
    pooled = (0, 2) if o("batch", False) else (2,)
    frequency = (w * t).sum(pooled, keepdim=True) / w.sum(pooled, keepdim=True)
    rarity = torch.where(frequency == 0, 0, 1 / frequency) ** 0.5
    logs = torch.where(t > 0, -log(q), 1) ** gamma  # a power of 0 has no derivative
    weight = o("class_weight", None) or [1.0] * q.shape[1]
    options = volume.options if not volume.categorical else {**volume.options, **ALL_CLASSES}
    every = Volume(volume.p, q, t, w, volume.categorical, options)
    count = t if volume.categorical else torch.ones_like(t)
    second = voxelwise(every, rarity * t * logs, count, weight)
    if dice.dim() and dice.shape != second.shape:
        dice = torch.cat([torch.zeros_like(second[..., :1]), dice], -1)
    return number(volume, "w_dice", 0.8) * dice + number(volume, "w_ce", 0.2) * second


ALL_CLASSES = {"include_background": True}


def unified_focal(volume: Volume) -> Tensor:
    """Yeung 2022, asymmetric: class 0 is the background, of the sigmoid what a class is not."""
    o = volume.option
    weight, delta, gamma = (
        number(volume, "weight", 0.5),
        number(volume, "delta", 0.6),
        number(volume, "gamma", 0.5),
    )
    q, t = volume.q, volume.t
    classes = q.shape[1]
    foreground = -delta * t * log(q)
    if volume.categorical:
        background = -(1 - delta) * t * (1 - q) ** gamma * log(q)
        loss = torch.cat([background[:, :1], foreground[:, 1:]], 1)
        count = torch.ones_like(t) / (classes - (0 if o("include_background", True) else 1))
    else:
        loss = foreground - (1 - delta) * (1 - t) * q**gamma * log(1 - q)
        count = torch.ones_like(t)
    class_weight = o("class_weight", None) or [1.0] * classes

    def tversky(p: Tensor, t: Tensor, w: Tensor, c: int) -> Tensor:
        own = 1 - tversky_index(volume, p, t, w, 1 - delta, delta)
        if volume.categorical:
            return own if c == 0 else own ** (1 - gamma)
        other = 1 - tversky_index(volume, 1 - p, 1 - t, w, 1 - delta, delta)
        return (other + own ** (1 - gamma)) / 2

    first = voxelwise(volume, loss, count, class_weight)
    return weight * first + (1 - weight) * per_class(volume, tversky)
