"""Losses over cells: each voxel counts for the component that is nearest to it."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss_fast._check import check_number, check_option
from segloss_fast.losses import _instances as instances
from segloss_fast.losses._counts import Given, check_count, count_of, given_of
from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._detached import detached_ratio
from segloss_fast.losses._keywords import Component, ComponentKeywords, Spacing, check_spacing
from segloss_fast.losses._module import Loss
from segloss_fast.ops._voxels.checks import check_target
from segloss_fast.ops._voxels.labels import counted_voxels
from segloss_fast.ops._voxels.maps import activate
from segloss_fast.ops.component_sums import ComponentSums
from segloss_fast.ops.connected_components import Components
from segloss_fast.ops.distance_transform import nearest_component
from segloss_fast.ops.region_masks import prediction_masks

EMPTY = ("detached", "dice")


@loss_function
def component_dice_ce_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    spacing: Spacing | None = None,
    size_power: float = 0.0,
    components: Tensor | None = None,
    cells: Tensor | None = None,
    count: int | Tensor | None = None,
    **keywords: Unpack[ComponentKeywords],
) -> Tensor:
    """Functional form of :class:`ComponentDiceCELoss`."""
    checked = instances.for_input(Component(**keywords), input, keywords)
    spacing = check_spacing(spacing)
    check_number("size_power", size_power)
    bins, most = _target_cells(input, target, spacing, (components, cells, count), checked)
    sums = instances.sums_of(input, target, voxel_weight, bins, most, checked)
    loss = _target_side(sums, input, checked, size_power)
    return instances.with_global(loss, sums, (input, target, voxel_weight), checked, keywords)


def _target_cells(
    input: Tensor,
    target: Tensor,
    spacing: float | tuple[float, ...] | None,
    given: Given,
    keywords: Component,
) -> tuple[Tensor, int]:
    """Return the cells of the target's components, as given with their count or as found."""
    components, cells, told = given
    counts: Tensor | int | None = check_count(told, components, cells)
    if cells is not None:
        bins = _check_own("cells", cells, input, keywords)
        return bins, count_of(bins, counts, keywords)
    if components is None:
        found = instances.components_of(input, target, keywords)
        components, counts = found.labels, found.count
    else:
        components = _check_own("components", components, input, keywords)
    count = count_of(components, counts, keywords)
    return nearest_component(components, spacing, impl=keywords.impl), count


def _check_own(name: str, given: Tensor, input: Tensor, keywords: Component) -> Tensor:
    """Return a map that the user computed, checked: each class has cells of its own."""
    bins = instances.check_map(name, given, input, keywords)
    if bins.shape[1] == 1 and input.shape[1] > (1 if keywords.include_background else 2):
        raise ValueError(f"{name} must hold all classes, got shape {list(bins.shape)}")
    return bins


def _target_side(
    sums: ComponentSums, input: Tensor, keywords: Component, size_power: float = 0.0
) -> Tensor:
    """Return the mean over the cells of the target's components, reduced."""
    member = instances.alone(sums.weight != 0, sums)
    share = instances.shares(sums, keywords, size_power)
    losses = instances.cell_losses(sums, keywords)
    return instances.reduce_bins(losses, member, share, sums, input, keywords)


class _CellLoss(Loss):
    """A loss whose components or cells can be computed beforehand."""

    shares_sums = False

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        voxel_weight: Tensor | None = None,
        *,
        components: Tensor | None = None,
        cells: Tensor | None = None,
        count: int | Tensor | None = None,
    ) -> Tensor:
        """Return the loss.

        Args:
            input: ``[B, C, *S]``.
            target: Class indices ``[B, *S]`` or ``[B, 1, *S]``, or 0 and 1 ``[B, C, *S]``.
            voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``.
            components: int32, or None.
            cells: int32, instead of ``components``, or None.
            count: The largest number in that map, or more: see :mod:`segloss_fast.losses`.

        Returns:
            A scalar; for the reduction "none" ``[B, C]``, ``[C]`` where the batch is pooled.
        """
        maps = given_of(components=components, cells=cells, count=count)
        return self.call(input, target, voxel_weight, **maps)


class ComponentDiceCELoss(_CellLoss):
    """CC-DiceCE: Dice and cross-entropy of each component in the cell of all that is nearest to it.

    >>> loss = segloss_fast.ComponentDiceCELoss(lambda_global=0)
    >>> loss(torch.zeros(1, 2, 6), torch.tensor([[0, 1, 1, 1, 0, 1]]))
    tensor(1.0871)

    For each item and foreground class the mean over the cells of its components of ``lambda_dice (1
    - (2 tp + smooth_nr) / (pred + target + smooth_dr)) + lambda_ce (nll + nll_neg) / weight``: sums
    over the voxels of the cell, which are those nearer to this component than to any other. Then
    the mean over classes and items, and ``lambda_global`` times :class:`DiceCELoss` of the whole
    volume, from the same pass. An item and class without components is one cell. The classes are
    taken one by one, each against all others. Source: Bouteille et al. 2025,
    https://arxiv.org/abs/2511.17146.

    ``forward`` has the keywords ``components``, as :class:`BlobLoss` has it, and ``cells``: int32
    ``[B, 1, *S]`` or ``[B, C, *S]`` (this for several classes), from
    :func:`segloss_fast.component_cells` in the data loader.

    Args:
        spacing: The distance between neighbouring voxels in any unit, for the cells: one number, or
            one for each axis. None is 1.
        size_power: Components weigh ``target ** -size_power`` in the mean (ours; 0: all alike).
        **keywords: The common keywords of region losses and those of losses over components, see
            :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    def __init__(
        self,
        *,
        spacing: Spacing | None = None,
        size_power: float = 0.0,
        **keywords: Unpack[ComponentKeywords],
    ) -> None:
        Component(**keywords)
        check_number("size_power", size_power)
        super().__init__(
            component_dice_ce_loss,
            spacing=check_spacing(spacing),
            size_power=size_power,
            **keywords,
        )


@loss_function
def bidirectional_component_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    alpha: float = 0.5,
    threshold: float = 0.5,
    empty: str = "detached",
    spacing: Spacing | None = None,
    components: Tensor | None = None,
    cells: Tensor | None = None,
    count: int | Tensor | None = None,
    **keywords: Unpack[ComponentKeywords],
) -> Tensor:
    """Functional form of :class:`BidirectionalComponentLoss`."""
    checked = instances.for_input(Component(**keywords), input, keywords)
    spacing = check_spacing(spacing)
    _check_sides(alpha, threshold, empty)
    bins, most = _target_cells(input, target, spacing, (components, cells, count), checked)
    sums = instances.sums_of(input, target, voxel_weight, bins, most, checked)
    loss = (1 - alpha) * _target_side(sums, input, checked)
    if alpha != 0:
        found = _predicted(input, target, threshold, checked)
        most = count_of(found.labels, found.count, checked)
        other = nearest_component(found.labels, spacing, impl=checked.impl)
        terms = (*instances.TERMS, "pred_sq")
        wrong = instances.sums_of(input, target, voxel_weight, other, most, checked, terms)
        loss = loss + alpha * _predicted_side(wrong, input, checked, empty)
    return instances.with_global(loss, sums, (input, target, voxel_weight), checked, keywords)


def _check_sides(alpha: float, threshold: float, empty: str) -> None:
    check_number("alpha", alpha, minimum=0, maximum=1)
    check_number("threshold", threshold, minimum=0, maximum=1)
    if threshold in (0, 1):
        raise ValueError(f"threshold must lie between 0 and 1, got {threshold}")
    check_option("empty", empty, EMPTY)


@torch.no_grad()
def _predicted(input: Tensor, target: Tensor, threshold: float, keywords: Component) -> Components:
    """Return the components of what is predicted, above the threshold."""
    labels = check_target(input, target, keywords.ignore_index).detach()
    background = keywords.include_background
    single = input.shape[1] == 1 or (input.shape[1] == 2 and not background)
    first = 0 if background else 1
    if threshold == 0.5:
        mask = prediction_masks(
            input,
            labels,
            activation=keywords.activation,
            ignore_index=keywords.ignore_index,
            first=first,
            impl=keywords.impl,
        )
    else:
        wide = input.detach().to(torch.float64 if input.dtype == torch.float64 else torch.float32)
        mask = activate(wide, keywords.activation) > threshold
        counted = counted_voxels(input, labels, keywords.ignore_index)
        mask = mask if counted is None else mask & counted
        if first and not single:
            mask = torch.cat([torch.zeros_like(mask[:, :1]), mask[:, 1:]], 1)
    return instances.label(mask[:, -1:] if single else mask, keywords.connectivity, keywords.impl)


def _predicted_side(sums: ComponentSums, input: Tensor, keywords: Component, empty: str) -> Tensor:
    """Return the mean over the cells of the predicted components, reduced."""
    member = instances.alone(sums.weight != 0, sums)
    losses = instances.cell_losses(sums, keywords)
    if empty == "detached":
        dice = detached_ratio(sums.pred_sq, sums.pred)
        own = instances.mixed(dice, instances.cell_entropy(sums), keywords)
        wrong = sums.target == 0
        wrong = torch.cat([torch.zeros_like(wrong[..., :1]), wrong[..., 1:]], 2)
        losses = torch.where(wrong, own, losses)
    return instances.reduce_bins(losses, member, None, sums, input, keywords)


class BidirectionalComponentLoss(_CellLoss):
    """BiCC: as CC-DiceCE, over the cells of the target's components and of the predicted ones.

    >>> loss = segloss_fast.BidirectionalComponentLoss(lambda_global=0)
    >>> loss(torch.tensor([[[0., 0, 0, 0, 0, 0], [1, 0, 1, 1, 0, 0]]]),
    ...      torch.tensor([[0, 1, 1, 1, 0, 1]]))
    tensor(1.0994)

    ``(1 - alpha) L_target + alpha L_predicted``. The first is that of :class:`ComponentDiceCELoss`;
    the second is the same over the cells of the components of the voxels with p above
    ``threshold``, through which no gradient goes, so that components that are predicted where there
    is nothing count as much as any other. A cell without a voxel of the class has a Dice loss that
    hardly depends on p: with ``empty="detached"`` it is ``sum p sg(p) / sg(sum p)`` instead, sg
    without a derivative, which presses what is surest down most. Where nothing is predicted, the
    whole is one cell. Source: TIO-IKIM 2026, BiCC loss.

    ``forward`` has the keywords ``components`` and ``cells``, as :class:`ComponentDiceCELoss`; both
    are those of the target.

    Args:
        alpha: Share of the predicted side, in [0, 1].
        threshold: Above which p is a prediction, between 0 and 1.
        empty: ``"detached"`` or ``"dice"``: Dice of predicted cells without a voxel of the class.
        spacing: As in :class:`ComponentDiceCELoss`.
        **keywords: The common keywords of region losses and those of losses over components, see
            :mod:`segloss_fast.losses`; ``absent="skip"`` leaves items without a target out on both
            sides.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        threshold: float = 0.5,
        empty: str = "detached",
        spacing: Spacing | None = None,
        **keywords: Unpack[ComponentKeywords],
    ) -> None:
        Component(**keywords)
        _check_sides(alpha, threshold, empty)
        super().__init__(
            bidirectional_component_loss,
            alpha=alpha,
            threshold=threshold,
            empty=empty,
            spacing=check_spacing(spacing),
            **keywords,
        )
