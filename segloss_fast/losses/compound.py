"""Compound losses: a region and a distribution loss, from one pass over the volume."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from typing_extensions import Unpack

from segloss_fast._check import check_flag, check_option
from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._keywords import Overlap, OverlapKeywords, Weights
from segloss_fast.losses._module import Loss
from segloss_fast.losses._reduce import check_factors, evaluate
from segloss_fast.losses.distribution import (
    check_cross_entropy,
    check_focal,
    cross_entropy_part,
    focal_part,
    is_categorical,
    is_dense,
)
from segloss_fast.losses.region import dice_part, needs_counts
from segloss_fast.ops.region_sums import ACTIVATIONS


@loss_function
def dice_ce_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    lambda_dice: float = 1.0,
    lambda_ce: float = 1.0,
    squared: bool = False,
    label_smoothing: float = 0.0,
    pos_weight: Weights | None = None,
    ce_activation: str | None = None,
    **keywords: Unpack[OverlapKeywords],
) -> Tensor:
    """Functional form of :class:`DiceCELoss`."""
    checked = Overlap(**keywords)
    own = ce_activation or checked.activation
    check_cross_entropy(own, label_smoothing, pos_weight)
    check_factors(lambda_dice=lambda_dice, lambda_ce=lambda_ce)
    categorical = is_categorical(own, input)
    counts = needs_counts(checked, input, voxel_weight)
    ce_keywords = replace(checked, include_background=True)
    dense = is_dense(input, target)
    return evaluate(
        [
            dice_part(checked, counts, squared, lambda_dice),
            cross_entropy_part(
                ce_keywords, categorical, label_smoothing, pos_weight, lambda_ce, dense=dense
            ),
        ],
        input,
        target,
        voxel_weight,
        checked,
        has_background_row=True,
        ce_activation=ce_activation,
    )


class DiceCELoss(Loss):
    """``lambda_dice * DiceLoss + lambda_ce * CrossEntropyLoss``, in one pass.

    >>> loss = segloss_fast.DiceCELoss()
    >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
    tensor(1.3598)

    As in MONAI and nnU-Net, ``include_background=False`` leaves the background out of Dice only;
    the row of the background is then cross-entropy alone.

    Args:
        lambda_dice: Factor of Dice.
        lambda_ce: Factor of cross-entropy.
        squared: As in :class:`DiceLoss`.
        label_smoothing: As in :class:`CrossEntropyLoss`.
        pos_weight: As in :class:`CrossEntropyLoss`.
        ce_activation: Activation of the cross-entropy; that of Dice if None.
        **keywords: The common keywords of region losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    over_sums = True

    def __init__(
        self,
        *,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
        squared: bool = False,
        label_smoothing: float = 0.0,
        pos_weight: Weights | None = None,
        ce_activation: str | None = None,
        **keywords: Unpack[OverlapKeywords],
    ) -> None:
        activation = Overlap(**keywords).activation
        check_cross_entropy(ce_activation or activation, label_smoothing, pos_weight)
        check_flag("squared", squared)
        check_factors(lambda_dice=lambda_dice, lambda_ce=lambda_ce)
        super().__init__(
            dice_ce_loss,
            lambda_dice=lambda_dice,
            lambda_ce=lambda_ce,
            squared=squared,
            label_smoothing=label_smoothing,
            pos_weight=pos_weight,
            ce_activation=ce_activation,
            **keywords,
        )


@loss_function
def dice_focal_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    lambda_dice: float = 1.0,
    lambda_focal: float = 1.0,
    squared: bool = False,
    gamma: float = 2.0,
    alpha: float | Weights | None = None,
    ce_activation: str | None = None,
    **keywords: Unpack[OverlapKeywords],
) -> Tensor:
    """Functional form of :class:`DiceFocalLoss`."""
    checked = Overlap(**keywords)
    check_focal(gamma, alpha)
    check_factors(lambda_dice=lambda_dice, lambda_focal=lambda_focal)
    own = ce_activation or checked.activation
    check_option("ce_activation", own, ACTIVATIONS)
    categorical = is_categorical(own, input)
    counts = needs_counts(checked, input, voxel_weight)
    return evaluate(
        [
            dice_part(checked, counts, squared, lambda_dice),
            focal_part(checked, categorical, alpha, lambda_focal),
        ],
        input,
        target,
        voxel_weight,
        checked,
        has_background_row=checked.include_background,
        ce_activation=ce_activation,
        gamma=gamma,
    )


class DiceFocalLoss(Loss):
    """``lambda_dice * DiceLoss + lambda_focal * FocalLoss``, in one pass.

    >>> loss = segloss_fast.DiceFocalLoss()
    >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
    tensor(0.8400)

    MONAI's DiceFocalLoss(softmax=True) is this with ``ce_activation="sigmoid"``. As there,
    ``include_background=False`` leaves the background out of both parts.

    Args:
        lambda_dice: Factor of Dice.
        lambda_focal: Factor of focal loss.
        squared: As in :class:`DiceLoss`.
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
        lambda_dice: float = 1.0,
        lambda_focal: float = 1.0,
        squared: bool = False,
        gamma: float = 2.0,
        alpha: float | Weights | None = None,
        ce_activation: str | None = None,
        **keywords: Unpack[OverlapKeywords],
    ) -> None:
        activation = Overlap(**keywords).activation
        check_option("ce_activation", ce_activation or activation, ACTIVATIONS)
        check_focal(gamma, alpha)
        check_flag("squared", squared)
        check_factors(lambda_dice=lambda_dice, lambda_focal=lambda_focal)
        super().__init__(
            dice_focal_loss,
            lambda_dice=lambda_dice,
            lambda_focal=lambda_focal,
            squared=squared,
            gamma=gamma,
            alpha=alpha,
            ce_activation=ce_activation,
            **keywords,
        )
