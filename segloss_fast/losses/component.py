"""Losses in which every component of the target counts as much as any other."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss_fast._check import check_number
from segloss_fast.losses import _instances as instances
from segloss_fast.losses._counts import check_count, count_of, given_of
from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._keywords import Component, Present, PresentKeywords
from segloss_fast.losses._module import Loss
from segloss_fast.losses._reduce import divide, ratio, reduce_region
from segloss_fast.ops.component_sums import ComponentSums
from segloss_fast.ops.region_sums import RegionSums


@loss_function
def blob_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    size_power: float = 0.0,
    components: Tensor | None = None,
    count: int | Tensor | None = None,
    **keywords: Unpack[PresentKeywords],
) -> Tensor:
    """Functional form of :class:`BlobLoss`."""
    checked = instances.for_input(Present(**keywords), input, keywords)
    check_number("size_power", size_power)
    terms = ("tp", "fp", "target", "weight", "nll", "nll_neg")
    sums = _of_components(input, target, voxel_weight, (components, count), checked, terms)
    pred = sums.fp.sum(2, keepdim=True)  # where the class is not
    rest = (sums.weight - sums.target).sum(2, keepdim=True)
    wrong = sums.nll_neg.sum(2, keepdim=True)
    own = _without_first(sums)
    size = pred + own.tp + own.target
    dice = 1 - ratio(2 * own.tp, size, checked.smooth_nr, checked.smooth_dr)
    loss = instances.mixed(dice, divide(wrong + own.nll, rest + own.target), checked)
    member = instances.alone(sums.target != 0, sums)
    share = instances.shares(own, checked, size_power)
    loss = instances.reduce_bins(loss, member, share, sums, input, checked)
    return instances.with_global(loss, sums, (input, target, voxel_weight), checked, keywords)


def _of_components(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    given: tuple[Tensor | None, int | Tensor | None],
    keywords: Component,
    terms: tuple[str, ...],
) -> ComponentSums:
    """Return the sums over components, as given with their count or as found."""
    components = given[0]
    count: Tensor | int | None = check_count(given[1], components)
    if components is None:
        found = instances.components_of(input, target, keywords)
        components, count = found.labels, found.count
    else:
        components = instances.check_map("components", components, input, keywords)
    most = count_of(components, count, keywords)
    return instances.sums_of(input, target, voxel_weight, components, most, keywords, terms)


def _without_first(sums: ComponentSums) -> ComponentSums:
    """Return the sums with those of bin 0, the voxels of no component, as 0."""
    rows = torch.cat([torch.zeros_like(sums.rows[..., :1]), sums.rows[..., 1:]], -1)
    return ComponentSums(sums.terms, rows)


class BlobLoss(Loss):
    """Blob loss: Dice and cross-entropy of each component alone, the others masked out.

    >>> loss = segloss_fast.BlobLoss(lambda_global=0)
    >>> loss(torch.zeros(1, 2, 6), torch.tensor([[0, 1, 1, 1, 0, 1]]))
    tensor(1.2204)

    For each item and foreground class the mean over its components k of ``lambda_dice (1 - (2 tp_k
    + smooth_nr) / (pred_rest + pred_k + target_k + smooth_dr)) + lambda_ce (nll_neg_rest + nll_k) /
    (weight_rest + weight_k)``: sums over the voxels of the component and over the rest, where the
    class is not. Then the mean over classes and items, and ``lambda_global`` times
    :class:`DiceCELoss` of the whole volume, from the same pass. The classes are taken one by one,
    each against all others. Source: Kofler et al. 2022, https://arxiv.org/abs/2205.08209; for
    several classes Kundu et al. 2026, https://arxiv.org/abs/2604.24276.

    ``forward`` has the keyword ``components``: int32 ``[B, 1, *S]`` or ``[B, C, *S]``, the number
    of each voxel's component (0 for none), from :func:`segloss_fast.component_labels` in the data
    loader or instances of any kind; None to find them. Voxels of a class that are in no component
    count in the global part alone.

    Args:
        size_power: Components weigh ``target_k ** -size_power`` in the mean (ours; 0: all alike).
        **keywords: The common keywords of region losses and those of losses over components, see
            :mod:`segloss_fast.losses`; ``absent`` is ``"skip"`` by default.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    shares_sums = False

    def __init__(self, *, size_power: float = 0.0, **keywords: Unpack[PresentKeywords]) -> None:
        Present(**keywords)
        check_number("size_power", size_power)
        super().__init__(blob_loss, size_power=size_power, **keywords)

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        voxel_weight: Tensor | None = None,
        *,
        components: Tensor | None = None,
        count: int | Tensor | None = None,
    ) -> Tensor:
        """Return the loss.

        Args:
            input: ``[B, C, *S]``.
            target: Class indices ``[B, *S]`` or ``[B, 1, *S]``, or 0 and 1 ``[B, C, *S]``.
            voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``.
            components: int32 ``[B, 1, *S]`` or ``[B, C, *S]``.
            count: The largest number in ``components``, or one above it; see
                :mod:`segloss_fast.losses`.

        Returns:
            A scalar, or ``[B, C]`` rows (``[C]`` where the batch is pooled) for the reduction
            "none".
        """
        maps = given_of(components=components, count=count)
        return self.call(input, target, voxel_weight, **maps)


@loss_function
def component_tversky_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 1.0,
    offset: float = 5.0,
    background_weight: float = 0.01,
    components: Tensor | None = None,
    count: int | Tensor | None = None,
    **keywords: Unpack[PresentKeywords],
) -> Tensor:
    """Functional form of :class:`ComponentTverskyLoss`."""
    checked = instances.for_input(Present(**keywords), input, keywords)
    _check_tversky(alpha, beta, gamma, offset, background_weight)
    if checked.connectivity is None and components is None:
        checked = replace(checked, connectivity="faces")
    # What is missed or wrong are sums of their own: little is left of them as differences.
    terms = ("tp", "fp", "fn", "target", "weight", "nll", "nll_neg")
    sums = _of_components(input, target, voxel_weight, (components, count), checked, terms)
    own = _without_first(sums)
    size = own.target
    factor = torch.where(size != 0, size + offset, 1) ** -gamma
    parts = (
        (factor * own.tp).sum(2),
        (factor * own.fn).sum(2),
        background_weight * sums.fp.sum(2),
        own.target.sum(2),  # absent is what has no component
        sums.weight.sum(2),
    )
    right, missing, wrong, all_target, weight = instances.pooled(
        torch.stack(parts), input, checked, "weighed components"
    )
    whole = right + alpha * wrong + beta * missing
    loss = 1 - ratio(right, whole, checked.smooth_nr, checked.smooth_dr)
    counts = RegionSums(("target", "weight"), torch.stack([all_target, weight]))
    loss = reduce_region(loss, counts, checked, counts=True)
    return instances.with_global(loss, sums, (input, target, voxel_weight), checked, keywords)


def _check_tversky(
    alpha: float, beta: float, gamma: float, offset: float, background_weight: float
) -> None:
    check_number("alpha", alpha, minimum=0)
    check_number("beta", beta, minimum=0)
    check_number("gamma", gamma, minimum=0)
    check_number("offset", offset, minimum=0)
    check_number("background_weight", background_weight, minimum=0)


class ComponentTverskyLoss(Loss):
    """Component-adaptive Tversky: small components weigh more per voxel, the background little.

    >>> loss = segloss_fast.ComponentTverskyLoss(lambda_global=0)
    >>> loss(torch.zeros(1, 2, 6), torch.tensor([[0, 1, 1, 1, 0, 1]]))
    tensor(0.4156)

    ``1 - (T + smooth_nr) / (T + alpha F + beta M + smooth_dr)`` for each item and foreground class,
    with ``T = sum_k v_k tp_k`` and ``M = sum_k v_k fn_k`` over its components k, ``F =
    background_weight * fp``, and ``v_k = (target_k + offset) ** -gamma``; and ``lambda_global``
    times :class:`DiceCELoss` of the whole volume, from the same pass, whose factors are
    ``lambda_dice`` and ``lambda_ce``. Source: Luu et al. 2026,
    https://arxiv.org/abs/2604.08015, who add a tenth of it, at most, to DiceCE:
    ``lambda_global=10`` up to a factor.

    ``forward`` has the keyword ``components``, as :class:`BlobLoss` has it.

    Args:
        alpha: Factor of false positives.
        beta: Factor of false negatives.
        gamma: How much more small components weigh; 0: all voxels alike.
        offset: Added to the size of a component, so that a single voxel does not weigh too much.
        background_weight: Weight of the voxels where the class is not.
        **keywords: The common keywords of region losses and those of losses over components, see
            :mod:`segloss_fast.losses`; ``absent`` is ``"skip"`` by default, and the connectivity
            that of faces.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    shares_sums = False

    def __init__(
        self,
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 1.0,
        offset: float = 5.0,
        background_weight: float = 0.01,
        **keywords: Unpack[PresentKeywords],
    ) -> None:
        Present(**keywords)
        _check_tversky(alpha, beta, gamma, offset, background_weight)
        super().__init__(
            component_tversky_loss,
            alpha=alpha,
            beta=beta,
            gamma=gamma,
            offset=offset,
            background_weight=background_weight,
            **keywords,
        )

    forward = BlobLoss.forward
