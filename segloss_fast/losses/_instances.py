"""What losses over components share: the maps, the sums over their bins, and the reduction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from segloss_fast import _check
from segloss_fast.losses._keywords import Component, Region
from segloss_fast.losses._reduce import check_classes, divide, ratio, reduce_region
from segloss_fast.losses.compound import dice_ce_loss
from segloss_fast.ops._voxels.checks import check_target
from segloss_fast.ops.component_sums import ComponentSums, component_sums
from segloss_fast.ops.connected_components import Components, connected_components
from segloss_fast.ops.region_masks import target_masks
from segloss_fast.ops.region_sums import RegionSums

K = TypeVar("K", bound=Component)
COMMON = tuple(field.name for field in fields(Region))  # keywords that DiceCELoss has, too
TERMS = ("tp", "pred", "target", "weight", "nll", "nll_neg")


def for_input(keywords: K, input: Tensor, given: Mapping[str, object]) -> K:
    """Return the keywords for this input, of which class 0 is a foreground if it is the only one.

    Args:
        keywords: Checked.
        input: ``[B, C, *S]``, checked here.
        given: The keywords that the user gave.

    Raises:
        As check_classes; and where a plan of the loss is made, which looks at the volume itself.
    """
    if keywords._source is not None:
        raise TypeError("_source must be None for a loss over components, which sums by itself")
    _check.check_input(input)
    if input.shape[1] == 1 and "include_background" not in given:
        keywords = replace(keywords, include_background=True)
    check_classes(input, keywords)
    return keywords


def component_map(
    target: Tensor,
    classes: int,
    *,
    dense: bool,
    connectivity: str | int | None,
    include_background: bool,
    ignore_index: int | None,
    impl: str,
) -> Components:
    """Return the components of each class, those of a single foreground as ``[B, 1, *S]``.

    Args:
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``, above one half inside.
        classes: C.
        dense: Whether the target holds values.
        connectivity: None is full.
        include_background: Whether class 0 has components.
        ignore_index: Voxels with this label, or value of one class, are outside of all components.
        impl: As a loss has it.
    """
    single = classes == 1 or (classes == 2 and not include_background)
    if single and not dense:
        mask, ignored = target[:, None], ignore_index
    else:
        mask = target_masks(
            target,
            classes,
            dense=dense,
            ignore_index=ignore_index,
            first=0 if include_background or classes == 1 else 1,
            impl=impl,
        )
        mask, ignored = mask[:, -1:] if single else mask, None
    return label(mask, connectivity, impl, ignored)


def label(
    mask: Tensor, connectivity: str | int | None, impl: str, ignore_index: int | None = None
) -> Components:
    """Return the components of masks; there are no Triton kernels for it, so that others serve."""
    return connected_components(
        mask,
        connectivity="full" if connectivity is None else connectivity,
        ignore_index=ignore_index,
        impl="auto" if impl == "triton" else impl,
    )


def components_of(input: Tensor, target: Tensor, keywords: Component) -> Components:
    """Return the components of the target of a loss."""
    labels = check_target(input, target, keywords.ignore_index)
    return component_map(
        labels.detach(),
        input.shape[1],
        dense=labels.dim() == input.dim(),
        connectivity=keywords.connectivity,
        include_background=keywords.include_background,
        ignore_index=keywords.ignore_index,
        impl=keywords.impl,
    )


def check_map(name: str, given: object, input: Tensor, keywords: Component) -> Tensor:
    """Return a map that the user computed, checked."""
    _check.check_dtype(name, given, (torch.int32,))
    assert isinstance(given, Tensor)
    _check.check_device(name, given, input)
    shared = torch.Size((input.shape[0], 1, *input.shape[2:]))
    if given.shape not in (shared, input.shape):
        raise ValueError(
            f"{name} must have shape {list(shared)} or {list(input.shape)}, got {list(given.shape)}"
        )
    if keywords.connectivity is not None:
        raise ValueError(
            f"connectivity goes with components that the loss finds itself, not with {name}: "
            f"got {keywords.connectivity!r}"
        )
    return given.detach()


def sums_of(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    bins: Tensor,
    count: int,
    keywords: Component,
    terms: Sequence[str] = TERMS,
) -> ComponentSums:
    """Return the sums over the bins; there are no Triton kernels for it, so that others serve."""
    return component_sums(
        *(input, target, bins),
        count=count,
        activation=keywords.activation,
        terms=terms,
        voxel_weight=voxel_weight,
        ignore_index=keywords.ignore_index,
        impl="auto" if keywords.impl == "triton" else keywords.impl,
    )


def with_global(
    loss: Tensor,
    sums: ComponentSums,
    tensors: tuple[Tensor, Tensor, Tensor | None],
    keywords: Component,
    given: Mapping[str, Any],
) -> Tensor:
    """Return a loss over components with DiceCELoss of the whole volume, from the same sums.

    Args:
        loss: ``[B', C]`` for the reduction "none", else a scalar.
        sums: With tp, target, weight, nll, nll_neg, and pred or fp.
        tensors: Input, target and voxel weight.
        keywords: Those of the loss.
        given: Those that the user gave, of which DiceCELoss has the common ones.
    """
    if keywords.reduction == "none" and keywords.batch:
        loss = loss.squeeze(0)
    loss = loss.to(torch.float64 if tensors[0].dtype == torch.float64 else torch.float32)
    if keywords.lambda_global == 0:
        return loss

    def source(*tensors: Tensor, terms: Sequence[str], **options: object) -> RegionSums:
        rows = [getattr(sums, t) if t in sums.terms else sums.tp + sums.fp for t in terms]
        return RegionSums(tuple(terms), torch.stack(rows).sum(3))

    common = {name: given[name] for name in COMMON if name in given}
    whole = dice_ce_loss(
        *tensors,
        lambda_dice=keywords.lambda_dice,
        lambda_ce=keywords.lambda_ce,
        **{**common, "include_background": keywords.include_background, "_source": source},
    )
    return loss + keywords.lambda_global * whole


def reduce_bins(
    loss: Tensor,
    member: Tensor,
    share: Tensor | None,
    sums: ComponentSums,
    input: Tensor,
    keywords: Component,
) -> Tensor:
    """Reduce the losses of bins, ``[B, C, K + 1]``: their mean for each item and class, and so on.

    Args:
        loss: That of each bin.
        member: Which bins there are, bool.
        share: The factors of the mean, 1 if None.
        sums: With target and weight.
        input: ``[B, C, *S]``.
        keywords: How it is reduced.
    """
    loss = torch.where(member, loss, 0)
    factor = member.to(loss) if share is None else torch.where(member, share, 0).to(loss)
    parts = ((loss * factor).sum(2), factor.sum(2), sums.target.sum(2), sums.weight.sum(2))
    total, shares, target, weight = pooled(torch.stack(parts), input, keywords, "components")
    # Absent is what has no component, whatever its voxels weigh and wherever the maps come from.
    target = target if share is None else shares
    counts = RegionSums(("target", "weight"), torch.stack([target, weight]))
    return reduce_region(divide(total, shares), counts, keywords, counts=False)


def pooled(rows: Tensor, input: Tensor, keywords: Component, kind: str) -> Tensor:
    """Return rows ``[N, B, C]`` as ``[N, B', C]``, added over items and ranks where asked for."""
    rows = rows.sum(1, keepdim=True) if keywords.pools else rows
    ranks = keywords.ranks(input)
    return rows if ranks is None else ranks.add(rows, keywords.kind(kind))


def alone(member: Tensor, sums: ComponentSums) -> Tensor:
    """Return which bins there are, given which of 1 to K: bin 0 only where none of these is.

    Args:
        member: ``[B, C, K + 1]`` bool, whose bin 0 does not matter.
        sums: With weight; a whole without any is no bin.
    """
    some = member[..., 1:]
    none = ~some.any(2, keepdim=True) & (sums.weight.sum(2, keepdim=True) != 0)
    return torch.cat([none, some], 2)


def cell_losses(sums: ComponentSums, keywords: Component) -> Tensor:
    """Return Dice and cross-entropy of each bin by itself, ``[B, C, K + 1]``."""
    size = sums.pred + sums.target
    dice = 1 - ratio(2 * sums.tp, size, keywords.smooth_nr, keywords.smooth_dr)
    return mixed(dice, cell_entropy(sums), keywords)


def cell_entropy(sums: ComponentSums) -> Tensor:
    """Return the cross-entropy of each bin, of a class against all others."""
    return divide(sums.nll + sums.nll_neg, sums.weight)


def mixed(dice: Tensor, cross_entropy: Tensor, keywords: Component) -> Tensor:
    """Return the weighted sum of Dice and cross-entropy; one without weight is left out."""
    if keywords.lambda_ce == 0:
        return keywords.lambda_dice * dice
    if keywords.lambda_dice == 0:
        return keywords.lambda_ce * cross_entropy
    return keywords.lambda_dice * dice + keywords.lambda_ce * cross_entropy


def shares(sums: ComponentSums, keywords: Component, size_power: float = 0.0) -> Tensor | None:
    """Return the factors of the mean over bins; None where all of them are 1.

    What stands for an item and class without components, bin 0, has none unless it is kept.
    """
    if size_power == 0 and keywords.absent == "keep":
        return None
    factors = torch.ones_like(sums.target)
    if size_power != 0:
        factors = torch.where(sums.target > 0, sums.target, 1) ** -size_power
    if keywords.absent != "keep":
        first = torch.zeros_like(factors[..., :1])
        factors = torch.cat([first, factors[..., 1:]], 2)
    return factors
