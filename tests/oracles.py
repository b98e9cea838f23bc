"""Definitions of the losses in float64, written from the papers, one item and class at a time.

Nothing here comes from the package: these are what it is tested against. Slow, and differentiable
by autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass
class Volume:
    """One problem, flattened, in float64.

    Attributes:
        p: Activated input of the region part, ``[B, C, V]``.
        q: Activated input of the part with logarithms.
        t: Target values, ``[B, C, V]``.
        w: Voxel weights, 0 where ignored, ``[B, C, V]``.
        categorical: Whether the classes of q compete.
        options: The loss's keywords.
        size: Of the spatial dimensions.
        counted: Whether a voxel is not ignored, ``[B, C, V]`` bool.
        dense: Whether the target held values.
    """

    p: Tensor
    q: Tensor
    t: Tensor
    w: Tensor
    categorical: bool
    options: dict[str, Any]
    size: tuple[int, ...] = ()
    counted: Tensor = field(default_factory=lambda: torch.empty(0))
    dense: bool = False

    def option(self, name: str, default: Any) -> Any:  # noqa: ANN401
        """Return a keyword of the call, or its default."""
        return self.options.get(name, default)


def volume(
    input: Tensor, target: Tensor, voxel_weight: Tensor | None, options: dict[str, Any]
) -> Volume:
    """Flatten and activate a problem."""
    x = input.double().flatten(2)
    batch, classes, voxels = x.shape
    w = torch.ones(batch, classes, voxels, dtype=torch.float64)
    counted = torch.ones(batch, classes, voxels, dtype=torch.bool)
    if voxel_weight is not None:
        w = w * voxel_weight.double().flatten(2)
    dense = target.is_floating_point() if classes == 1 else target.shape == input.shape
    if dense and classes > 1:
        t = target.double().flatten(2)
    else:
        labels = target.reshape(batch, voxels)
        labels = labels.double() if dense else labels.long()
        ignored = torch.zeros_like(labels, dtype=torch.bool)
        if options.get("ignore_index") is not None:
            ignored = labels == options["ignore_index"]
        t = torch.zeros(batch, classes, voxels, dtype=torch.float64)
        for c in range(classes):
            t[:, c] = labels if classes == 1 else (labels == c)
        t = torch.where(ignored[:, None], 0, t)
        w = w * ~ignored[:, None]
        counted = counted & ~ignored[:, None]
        x = torch.where(ignored[:, None], 0, x)
    name = options.get("activation", "softmax")
    ce_name = options.get("ce_activation") or name
    categorical = ce_name == "softmax" or (ce_name == "probabilities" and classes > 1)
    return Volume(
        activate(x, name),
        activate(x, ce_name),
        t,
        w,
        categorical,
        options,
        tuple(input.shape[2:]),
        counted,
        dense,
    )


def activate(x: Tensor, name: str) -> Tensor:
    """Softmax over the classes, sigmoid, or nothing; written out."""
    if name == "softmax":
        e = torch.exp(x - x.detach().amax(1, keepdim=True))
        return e / e.sum(1, keepdim=True)
    return 1 / (1 + torch.exp(-x)) if name == "sigmoid" else x


def region(volume: Volume, index: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Reduce 1 - index(p, t, w) of each item and class, as the common keywords say."""
    return per_class(volume, lambda p, t, w, c: 1 - index(p, t, w))


def per_class(volume: Volume, loss_of: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> Tensor:
    """Reduce a loss(p, t, w, class) of each item and class, as the common keywords say."""
    o = volume.option
    batch, classes, _ = volume.p.shape
    items: list[Any] = (
        [slice(0, None)] if o("batch", False) else [slice(b, b + 1) for b in range(batch)]
    )
    start = 0 if o("include_background", True) else 1
    class_weight = o("class_weight", None) or [1.0] * classes
    rows, factors = [], []
    for item in items:
        for c in range(start, classes):
            p, t, w = (part[item, c].flatten() for part in (volume.p, volume.t, volume.w))
            present = bool((w * t).sum() != 0)
            nothing = bool((w == 0).all())
            as_zero = o("absent", "keep") == "zero" and not present
            rows.append(p.sum() * 0 if nothing or as_zero else loss_of(p, t, w, c))
            keep = o("absent", "keep") != "skip" or present
            factors.append(class_weight[c] * float(keep))
    loss, factor = torch.stack(rows), torch.tensor(factors, dtype=torch.float64)
    if o("reduction", "mean") == "none":
        result = (loss * factor).view(len(items), -1)
        return result[0] if o("batch", False) else result
    total = (loss * factor).sum()
    return total if o("reduction", "mean") == "sum" else total / factor.sum().clamp_min(1e-300)


def agreement(volume: Volume, p: Tensor, t: Tensor) -> Tensor:
    """Return p t; of soft labels (Wang 2023) the smaller of both, but for squared sums."""
    soft = volume.option("soft_label", False) and not volume.option("squared", False)
    return torch.minimum(p, t) if soft else p * t


def dice(volume: Volume) -> Tensor:
    """Milletari 2016, Sudre 2017."""
    nr, dr = volume.option("smooth_nr", 1e-5), volume.option("smooth_dr", 1e-5)
    squared = volume.option("squared", False)

    def index(p: Tensor, t: Tensor, w: Tensor) -> Tensor:
        size = (w * (p**2 + t**2)).sum() if squared else (w * (p + t)).sum()
        return torch.div(2 * (w * agreement(volume, p, t)).sum() + nr, size + dr)

    return region(volume, index)


def tversky(volume: Volume) -> Tensor:
    """Salehi 2017: false positives weigh alpha, false negatives beta."""
    nr, dr = volume.option("smooth_nr", 1e-5), volume.option("smooth_dr", 1e-5)
    alpha, beta = volume.option("alpha", 0.5), volume.option("beta", 0.5)

    def index(p: Tensor, t: Tensor, w: Tensor) -> Tensor:
        both = agreement(volume, p, t)
        tp, fp, fn = (w * both).sum(), (w * (p - both)).sum(), (w * (t - both)).sum()
        return torch.div(tp + nr, tp + alpha * fp + beta * fn + dr)

    return region(volume, index)


def jaccard(volume: Volume) -> Tensor:
    """Rahman and Wang 2016: intersection over union."""
    nr, dr = volume.option("smooth_nr", 1e-5), volume.option("smooth_dr", 1e-5)

    def index(p: Tensor, t: Tensor, w: Tensor) -> Tensor:
        both = (w * agreement(volume, p, t)).sum()
        return torch.div(both + nr, (w * p).sum() + (w * t).sum() - both + dr)

    return region(volume, index)


def voxelwise(
    volume: Volume,
    loss: Tensor,
    count: Tensor,
    class_weight: list[float],
    *,
    weigh_count: bool = True,
) -> Tensor:
    """Reduce a map ``[B, C, V]`` of losses, divided by the sum of the map ``count``."""
    o = volume.option
    v = torch.tensor(class_weight, dtype=torch.float64).view(1, -1, 1).clone()
    start = 0 if o("include_background", True) else 1
    v[:, :start] = 0
    u = v if weigh_count else (torch.arange(v.shape[1]) >= start).double().view(1, -1, 1)
    part, norm = (v * volume.w * loss).sum(2), (u * volume.w * count).sum(2)  # [B, C]
    if o("reduction", "mean") == "sum":
        return part.sum()
    if o("reduction", "mean") == "mean":
        return part.sum() / norm.sum() if norm.sum() != 0 else part.sum()
    if o("batch", False):
        part, norm = part.sum(0, keepdim=True), norm.sum(0, keepdim=True)
    total = norm.sum(1, keepdim=True)
    rows = (part / torch.where(total == 0, 1, total))[:, start:]
    return rows[0] if o("batch", False) else rows


def cross_entropy(volume: Volume) -> Tensor:
    """Weighted cross-entropy with smoothed labels; binary where the classes do not compete."""
    o, q, t = volume.option, volume.q, volume.t
    classes = q.shape[1]
    weight = o("class_weight", None) or [1.0] * classes
    if volume.categorical:
        smooth = o("label_smoothing", 0.0)
        # The smoothed target's parts weigh as their own class, the norm as the voxel's class; of
        # values, as the voxel.
        loss = -((1 - smooth) * t + smooth / classes) * log(q)
        return categorical_mean(volume, loss, weight)
    positive = torch.tensor(o("pos_weight", None) or [1.0] * classes, dtype=torch.float64).view(
        1, -1, 1
    )
    loss = -(positive * t * log(q) + (1 - t) * log(1 - q))
    return voxelwise(volume, loss, torch.ones_like(t), weight)


def categorical_mean(volume: Volume, loss: Tensor, weight: list[float]) -> Tensor:
    """Reduce a cross-entropy of classes that compete as torch does, by the kind of target."""
    if not volume.dense or not volume.option("include_background", True):
        return voxelwise(volume, loss, volume.t, weight)
    share = torch.ones_like(loss) / loss.shape[1]
    return voxelwise(volume, loss, share, weight, weigh_count=False)


def focal(volume: Volume) -> Tensor:
    """Lin 2017, categorical or binary."""
    o, q, t = volume.option, volume.q, volume.t
    classes, gamma, alpha = q.shape[1], o("gamma", 2.0), o("alpha", None)
    weight = o("class_weight", None) or [1.0] * classes
    scalar = isinstance(alpha, float)
    positive = torch.ones(1, classes, 1, dtype=torch.float64)
    if alpha is not None:
        positive = positive * (
            alpha if scalar else torch.tensor(alpha, dtype=torch.float64).view(1, -1, 1)
        )
    if volume.categorical:
        if scalar:
            positive[:, 0] = 1 - alpha
        used = classes - (0 if o("include_background", True) else 1)
        loss = -positive * t * (1 - q) ** gamma * log(q)
        return voxelwise(volume, loss, torch.ones_like(t) / used, weight)
    negative = 1 - alpha if scalar else 1.0
    loss = -(positive * t * (1 - q) ** gamma * log(q) + negative * (1 - t) * q**gamma * log(1 - q))
    return voxelwise(volume, loss, torch.ones_like(t), weight)


def log(p: Tensor) -> Tensor:
    """Logarithm clamped to -100, as in torch's binary cross-entropy."""
    return torch.log(p).clamp_min(-100)


def compound(
    region_loss: Callable[[Volume], Tensor],
    voxel_loss: Callable[[Volume], Tensor],
    factors: tuple[str, str],
    background: bool,
) -> Callable[[Volume], Tensor]:
    """Return the weighted sum of two losses; with ``background`` the second keeps class 0."""

    def loss(volume: Volume) -> Tensor:
        first = volume.option(factors[0], 1.0) * region_loss(volume)
        all_classes = (
            {**volume.options, "include_background": True} if background else volume.options
        )
        other = replace(volume, options=all_classes)
        second = volume.option(factors[1], 1.0) * voxel_loss(other)
        if first.dim() and first.shape != second.shape:  # rows without, and with the background
            first = torch.cat([torch.zeros_like(second[..., :1]), first], -1)
        result: Tensor = first + second
        return result

    return loss
