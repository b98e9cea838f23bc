"""Generalised Dice, one ratio of all classes together, alone and with focal loss."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss_fast._check import check_option
from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._keywords import Region, RegionKeywords, Weights
from segloss_fast.losses._module import Loss
from segloss_fast.losses._reduce import Part, check_factors, class_weights, evaluate, ratio
from segloss_fast.losses.distribution import check_focal, focal_part, is_categorical
from segloss_fast.losses.region import dice_terms, needs_counts
from segloss_fast.ops.region_sums import ACTIVATIONS, RegionSums

WEIGHTINGS = {"square": 2, "simple": 1, "uniform": 0}


def generalized_dice_part(
    keywords: Region, counts: bool, weighting: str, factor: float = 1.0
) -> Part:
    """Return generalised Dice as a summand (see :func:`generalized_dice_loss`).

    For the reduction "none" its value is ``[B', 1]``: without the background already.
    """
    check_option("weighting", weighting, tuple(WEIGHTINGS))

    def value(sums: RegionSums) -> Tensor:
        start = 0 if keywords.include_background else 1
        weight = _class_factors(sums, keywords, weighting)[:, start:]
        tp, size = sums.tp[:, start:], (sums.pred + sums.target)[:, start:]
        numerator = 2 * (weight * tp).sum(1, keepdim=True)
        denominator = (weight * size).sum(1, keepdim=True)
        loss = 1 - ratio(numerator, denominator, keywords.smooth_nr, keywords.smooth_dr)
        if counts:
            counted = (sums.weight[:, start:] != 0).any(1, keepdim=True)
            loss = torch.where(counted, loss, 0)
        if keywords.absent == "zero":
            loss = loss * (sums.target[:, start:] != 0).any(1, keepdim=True)
        if keywords.reduction == "none":
            return loss
        return loss.sum() if keywords.reduction == "sum" or loss.numel() == 0 else loss.mean()

    return Part(dice_terms(squared=False, counts=counts), value, factor)


def _class_factors(sums: RegionSums, keywords: Region, weighting: str) -> Tensor:
    """Return what each class weighs in both sums, ``[B', C]``."""
    start = 0 if keywords.include_background else 1
    target = sums.target
    present = target != 0
    factors = target.masked_fill(~present, 1).pow(-WEIGHTINGS[weighting])
    factors = factors.masked_fill(~present, 0)
    if keywords.absent == "keep":
        absent = torch.ones_like(factors)
        if weighting != "uniform":
            absent = factors[:, start:].amax(1, keepdim=True)
        factors = torch.where(present, factors, absent)
    # Of the sum 1: a power of the volume would make the smoothing outweigh what it is added to.
    total = factors[:, start:].sum(1, keepdim=True)
    factors = factors / total.masked_fill(total == 0, 1)
    weight = class_weights(keywords.class_weight, "class_weight", factors)
    return factors if weight is None else factors * weight


@loss_function
def generalized_dice_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    weighting: str = "square",
    **keywords: Unpack[RegionKeywords],
) -> Tensor:
    """Functional form of :class:`GeneralizedDiceLoss`."""
    checked = Region(**keywords)
    part = generalized_dice_part(checked, needs_counts(checked, input, voxel_weight), weighting)
    # Its one row per item has no background to leave out.
    return evaluate([part], input, target, voxel_weight, checked, has_background_row=True)


class GeneralizedDiceLoss(Loss):
    """Generalised Dice loss: one ratio per item, whose sums weigh small classes more.

    >>> loss = segloss_fast.GeneralizedDiceLoss()
    >>> loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 0, 1]]))
    tensor(0.6250)

    ``1 - (2 sum_c v_c tp_c + smooth_nr) / (sum_c v_c (pred_c + target_c) + smooth_dr)`` with
    v = 1 / target^2 (or 1 / target, or 1), divided by the sum of v over the classes, times the
    class weight. An absent class has the largest v of the others (with ``absent="skip"`` or
    ``"zero"``: 0); if all are absent v is 0, or with ``"uniform"`` the same for all. MONAI's does
    not divide by the sum, so that on large volumes its smoothing outweighs the sums; without
    smoothing both are equal.
    Source: Sudre et al. 2017, https://arxiv.org/abs/1707.03237.

    Args:
        weighting: ``"square"``, ``"simple"`` or ``"uniform"``.
        **keywords: The common keywords of region losses, see :mod:`segloss_fast.losses`. The
            reduction is over items; "none" gives ``[B, 1]`` (``[1]`` with ``batch=True``).

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    over_sums = True

    def __init__(self, *, weighting: str = "square", **keywords: Unpack[RegionKeywords]) -> None:
        Region(**keywords)
        check_option("weighting", weighting, tuple(WEIGHTINGS))
        super().__init__(generalized_dice_loss, weighting=weighting, **keywords)


@loss_function
def generalized_dice_focal_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    lambda_gdl: float = 1.0,
    lambda_focal: float = 1.0,
    weighting: str = "square",
    gamma: float = 2.0,
    alpha: float | Weights | None = None,
    ce_activation: str | None = None,
    **keywords: Unpack[RegionKeywords],
) -> Tensor:
    """Functional form of :class:`GeneralizedDiceFocalLoss`."""
    checked = Region(**keywords)
    check_focal(gamma, alpha)
    check_factors(lambda_gdl=lambda_gdl, lambda_focal=lambda_focal)
    own = ce_activation or checked.activation
    check_option("ce_activation", own, ACTIVATIONS)
    categorical = is_categorical(own, input)
    counts = needs_counts(checked, input, voxel_weight)
    return evaluate(
        [
            generalized_dice_part(checked, counts, weighting, lambda_gdl),
            focal_part(checked, categorical, alpha, lambda_focal),
        ],
        input,
        target,
        voxel_weight,
        checked,
        ce_activation=ce_activation,
        gamma=gamma,
    )


class GeneralizedDiceFocalLoss(Loss):
    """``lambda_gdl * GeneralizedDiceLoss + lambda_focal * FocalLoss``, in one pass.

    >>> loss = segloss_fast.GeneralizedDiceFocalLoss()
    >>> loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 0, 1]]))
    tensor(0.7983)

    MONAI's GeneralizedDiceFocalLoss(softmax=True) is this with ``ce_activation="sigmoid"``. As
    there, ``include_background=False`` leaves the background out of both parts. The rows of the
    reduction "none" each have the generalised Dice of their item.

    Args:
        lambda_gdl: Factor of generalised Dice.
        lambda_focal: Factor of focal loss.
        weighting: As in :class:`GeneralizedDiceLoss`.
        gamma: As in :class:`FocalLoss`.
        alpha: As in :class:`FocalLoss`.
        ce_activation: Activation of the focal loss; that of Dice if None.
        **keywords: The common keywords of region losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    over_sums = True

    def __init__(
        self,
        *,
        lambda_gdl: float = 1.0,
        lambda_focal: float = 1.0,
        weighting: str = "square",
        gamma: float = 2.0,
        alpha: float | Weights | None = None,
        ce_activation: str | None = None,
        **keywords: Unpack[RegionKeywords],
    ) -> None:
        activation = Region(**keywords).activation
        check_option("ce_activation", ce_activation or activation, ACTIVATIONS)
        check_focal(gamma, alpha)
        check_option("weighting", weighting, tuple(WEIGHTINGS))
        check_factors(lambda_gdl=lambda_gdl, lambda_focal=lambda_focal)
        super().__init__(
            generalized_dice_focal_loss,
            lambda_gdl=lambda_gdl,
            lambda_focal=lambda_focal,
            weighting=weighting,
            gamma=gamma,
            alpha=alpha,
            ce_activation=ce_activation,
            **keywords,
        )
