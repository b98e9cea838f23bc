"""From sums per item and class to the loss: pooling, ratios, class weights, reduction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segloss_fast._check import check_input, check_number, widen
from segloss_fast.losses._keywords import Ratio, Voxel, Weights
from segloss_fast.losses._resident import resident
from segloss_fast.ops.region_sums import RegionSums, region_sums


@dataclass(frozen=True)
class Part:
    """A summand of a loss: the sums it needs, and its value as a function of them.

    ``value`` gets rows ``[B', C]``, with B' = 1 where the batch is pooled, and returns a scalar, or
    for the reduction "none" ``[B', C]`` with zeros for a background that is left out. ``each`` is
    what a mean over voxels does with the sums of its items ``[B, C]`` before they are pooled for
    other reasons than ``batch=True``.
    """

    terms: tuple[str, ...]
    value: Callable[[RegionSums], Tensor]
    factor: float = 1.0
    each: Callable[[RegionSums], RegionSums] | None = None


COUNTS = ("target", "weight")  # rows that say how much there is; a field does not weigh them


def evaluate(
    parts: Sequence[Part],
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    keywords: Voxel,
    *,
    has_background_row: bool | None = None,
    ce_activation: str | None = None,
    gamma: float | None = None,
    field: Tensor | None = None,
) -> Tensor:
    """Return the weighted sum of the parts, all from one pass over the volume.

    Args:
        parts: The summands.
        input: ``[B, C, *S]``.
        target: As for region_sums.
        voxel_weight: As for region_sums.
        keywords: The common ones.
        has_background_row: Whether the reduction "none" keeps the parts' first row; if None, where
            the background has a share.
        ce_activation: As for region_sums.
        gamma: As for region_sums.
        field: ``[B, 1, *S]`` or ``[B, C, *S]``: multiplied to each voxel's share of all terms but
            those in COUNTS.
    """
    check_classes(input, keywords)
    if has_background_row is None:
        has_background_row = keywords.include_background
    source = keywords._source or region_sums

    def sums(terms: Sequence[str], weight: Tensor | None) -> RegionSums:
        return source(
            input,
            target,
            activation=keywords.activation,
            ce_activation=ce_activation,
            terms=terms,
            gamma=gamma,
            voxel_weight=weight,
            ignore_index=keywords.ignore_index,
            impl=keywords.impl,
        )

    terms = tuple(dict.fromkeys(term for part in parts for term in part.terms))
    if field is None:
        return finish(
            parts, sums(terms, voxel_weight), input, keywords, has_background_row=has_background_row
        )
    counts = [term for term in terms if term in COUNTS]
    weight = field if voxel_weight is None else widen(field) * widen(voxel_weight)
    weighed = sums([term for term in terms if term not in COUNTS], weight)
    if not counts:
        return finish(parts, weighed, input, keywords, has_background_row=has_background_row)
    if voxel_weight is None and keywords.ignore_index is None and counts == ["weight"]:
        voxels = input[0, 0].numel() if input.shape[0] else 0
        rows = weighed.rows.new_full((1, *input.shape[:2]), voxels)
    else:
        rows = sums(counts, voxel_weight).rows
    rows = torch.cat([weighed.rows, rows])
    both = RegionSums((*weighed.terms, *counts), rows, weighed.constant)
    return finish(parts, both, input, keywords, has_background_row=has_background_row)


def check_classes(input: Tensor, keywords: Voxel) -> None:
    """Raise unless this can be an input, and a class is left without the background."""
    check_input(input)
    if input.shape[1] == 1 and not keywords.include_background:
        raise ValueError(
            "include_background=False leaves no class: input must have at least two classes, "
            f"got shape {list(input.shape)}"
        )


def finish(
    parts: Sequence[Part],
    sums: RegionSums,
    input: Tensor,
    keywords: Voxel,
    *,
    has_background_row: bool,
) -> Tensor:
    """Return the weighted sum of the parts, given the sums per item and class."""
    if keywords.pools and not keywords.batch and parts[0].each is not None:
        sums = parts[0].each(sums)
    rows = sums.rows.sum(1, keepdim=True) if keywords.pools else sums.rows
    ranks = keywords.ranks(input)
    if ranks is not None:
        rows = ranks.add(rows, keywords.kind(" ".join(sums.terms)))
    pooled = RegionSums(sums.terms, rows, sums.constant)
    loss = _scaled(parts[0], pooled)
    for part in parts[1:]:
        loss = loss + _scaled(part, pooled)
    if keywords.reduction == "none":
        loss = loss if has_background_row else loss[:, 1:]
        loss = loss.squeeze(0) if keywords.batch else loss
    return loss.to(torch.float64 if input.dtype == torch.float64 else torch.float32)


def _scaled(part: Part, sums: RegionSums) -> Tensor:
    value = part.value(sums)
    return value if part.factor == 1 else part.factor * value


def ratio(numerator: Tensor, denominator: Tensor, nr: float, dr: float) -> Tensor:
    """Return (numerator + nr) / (denominator + dr), and 1 where nothing is left to divide by.

    An empty class predicted empty is a perfect prediction; its ratio is 1 for any nr = dr, so for 0
    too.
    """
    if dr > 0:
        return (numerator + nr) / (denominator + dr)
    empty = denominator == 0
    return torch.where(empty, 1, (numerator + nr) / denominator.masked_fill(empty, 1))


def check_factors(**factors: float) -> None:
    """Raise unless all are finite numbers."""
    for name, factor in factors.items():
        check_number(name, factor)


def divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide; return the numerator where the denominator is 0.

    Where nothing counts both are 0. Voxel weights of both signs can cancel to 0 too.
    """
    return numerator / denominator.masked_fill(denominator == 0, 1)


def class_weights(weights: Weights | None, name: str, like: Tensor) -> Tensor | None:
    """Return the weights as a row ``[C]`` with the device and dtype of ``like`` ``[B', C]``."""
    if weights is None:
        return None
    row = resident(weights, like)
    if row.shape != like.shape[1:]:
        raise ValueError(
            f"{name} must hold {like.shape[1]} numbers, one per class, got shape {list(row.shape)}"
        )
    return row


def reduce_region(loss: Tensor, sums: RegionSums, keywords: Ratio, counts: bool) -> Tensor:
    """Reduce a loss per item and class, ``[B', C]``.

    Args:
        loss: ``[B', C]``.
        sums: With the row target, and the row weight if ``counts``.
        keywords: Which classes count, with what weight, and how they are reduced.
        counts: Whether the row weight tells which items have a voxel that counts; the loss of one
            that has none is 0.
    """
    if counts:
        loss = torch.where(sums.weight == 0, 0, loss)
    weight = class_weights(keywords.class_weight, "class_weight", loss)
    if keywords.absent != "keep":
        present = (sums.target != 0).to(loss)
        if keywords.absent == "skip":
            weight = present if weight is None else weight * present
        else:
            loss = loss * present  # not selected, so that a NaN still shows
    return _reduce_rows(loss, weight, keywords)


def reduce_mean(parts: Tensor, sums: RegionSums, keywords: Voxel) -> Tensor:
    """Reduce the mean over the voxels of each item and class.

    Args:
        parts: Sums of the loss, ``[B', C]``.
        sums: With the row weight: what they are divided by.
        keywords: Which classes count, with what weight, and how they are reduced.
    """
    weight = class_weights(keywords.class_weight, "class_weight", parts)
    return _reduce_rows(divide(parts, sums.weight), weight, keywords)


def _reduce_rows(loss: Tensor, weight: Tensor | None, keywords: Voxel) -> Tensor:
    """Reduce the losses of items and classes, ``[B', C]``, with the weights ``[C]`` or alike."""
    background = 0 if keywords.include_background else 1
    if keywords.reduction != "none":
        loss = loss[:, background:]
        weight = None if weight is None else weight[..., background:]
    elif background:
        weight = torch.ones_like(loss) if weight is None else weight
        weight = torch.cat([torch.zeros_like(weight[..., :1]), weight[..., 1:]], -1)
    # Multiplied, not selected, so that a NaN in a class that is skipped still shows.
    weighted = loss if weight is None else loss * weight
    if keywords.reduction == "none":
        return weighted
    if keywords.reduction == "sum" or loss.numel() == 0:
        return weighted.sum()
    return (
        weighted.mean() if weight is None else divide(weighted.sum(), weight.expand_as(loss).sum())
    )


def reduce_voxel(
    parts: Tensor, norm: Tensor, keywords: Voxel, *, weigh_norm: bool = True
) -> Tensor:
    """Reduce a voxel loss summed per item and class, ``[B', C]``.

    Args:
        parts: Sums of the loss, ``[B', C]``.
        norm: What each adds to the number of voxels that the mean divides by, ``[B', C]``.
        keywords: Which classes count, with what weight, and how they are reduced.
        weigh_norm: Whether class weights weigh the number of voxels too.
    """
    weight = class_weights(keywords.class_weight, "class_weight", parts)
    if weight is not None:
        parts, norm = parts * weight, norm * weight if weigh_norm else norm
    if not keywords.include_background:  # left out, not weighted 0, which would keep a NaN
        parts, norm = parts[:, 1:], norm[:, 1:]
    if keywords.reduction == "sum":
        return parts.sum()
    if keywords.reduction == "mean":
        return divide(parts.sum(), norm.sum())
    rows = divide(parts, norm.sum(1, keepdim=True))
    if keywords.include_background:
        return rows
    return torch.cat([torch.zeros_like(rows[:, :1]), rows], 1)
