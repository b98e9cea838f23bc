"""Region losses over squares and sums: Dice, its log-cosh, sensitivity and specificity."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss_fast._check import check_flag, check_input, check_number
from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._keywords import (
    Overlap,
    OverlapKeywords,
    Ratio,
    RatioKeywords,
    Region,
)
from segloss_fast.losses._module import Loss
from segloss_fast.losses._reduce import Part, divide, evaluate, ratio, reduce_region
from segloss_fast.ops.region_sums import RegionSums


def needs_counts(keywords: Region, input: Tensor, voxel_weight: Tensor | None) -> bool:
    """Whether an item may have no voxel that counts, and its ratio would then differ from 1."""
    check_input(input)
    # All ranks ask for the same sums, whatever their shares hold.
    may_be_empty = (
        keywords.sync is not False
        or keywords.ignore_index is not None
        or voxel_weight is not None
        or input.numel() == 0
    )
    return may_be_empty and keywords.smooth_nr != keywords.smooth_dr and keywords.smooth_dr != 0


def dice_terms(squared: bool, counts: bool, soft: bool = False) -> tuple[str, ...]:
    """Return the sums that Dice needs, and its reduction; ``soft``: for overlap's soft labels."""
    terms = ("tp", "pred_sq", "target_sq", "target") if squared else ("tp", "pred", "target")
    if soft and not squared:
        terms = ("tp_soft", "pred", "target")
    return (*terms, "weight") if counts else terms


def is_soft(keywords: Region) -> bool:
    """Whether the overlap is that of soft labels."""
    return isinstance(keywords, Overlap) and keywords.soft_label


def overlap(sums: RegionSums, keywords: Region, squared: bool = False) -> Tensor:
    """Return the sum of p t, or with soft labels of the smaller of p and t.

    Squares need no other sum: (p^2 + t^2 - (p - t)^2) / 2 is p t.
    """
    if squared or not is_soft(keywords):
        return sums.tp
    return sums.tp_soft


def dice_index(sums: RegionSums, keywords: Region, squared: bool = False) -> Tensor:
    """Return Dice per item and class, ``[B', C]``."""
    pred = sums.pred_sq if squared else sums.pred
    target = sums.target_sq if squared else sums.target
    both = 2 * overlap(sums, keywords, squared)
    return ratio(both, pred + target, keywords.smooth_nr, keywords.smooth_dr)


def dice_part(keywords: Region, counts: bool, squared: bool, factor: float = 1.0) -> Part:
    """Return Dice as a summand (see :func:`dice_loss`); ``counts``: :func:`needs_counts`."""
    check_flag("squared", squared)

    def value(sums: RegionSums) -> Tensor:
        return reduce_region(1 - dice_index(sums, keywords, squared), sums, keywords, counts)

    return Part(dice_terms(squared, counts, is_soft(keywords)), value, factor)


@loss_function
def dice_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    squared: bool = False,
    **keywords: Unpack[OverlapKeywords],
) -> Tensor:
    """Functional form of :class:`DiceLoss`."""
    checked = Overlap(**keywords)
    part = dice_part(checked, needs_counts(checked, input, voxel_weight), squared)
    return evaluate([part], input, target, voxel_weight, checked)


class DiceLoss(Loss):
    """Soft Dice loss, ``1 - (2 tp + smooth_nr) / (pred + target + smooth_dr)`` per item and class.

    >>> loss = segloss_fast.DiceLoss()
    >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
    tensor(0.6667)

    tp sums p t, pred sums p and target sums t over the voxels (times the voxel weight). Of soft
    targets the loss is least at p = t with ``soft_label=True``: tp is then the sum of the smaller
    of the two, (pred + target - sum of abs(p - t)) / 2.
    Sources: Milletari et al. 2016 (squared), https://arxiv.org/abs/1606.04797; Sudre et al. 2017,
    https://arxiv.org/abs/1707.03237; Wang et al. 2023 (soft labels),
    https://arxiv.org/abs/2303.16296.

    Args:
        squared: Whether the denominator sums p^2 and t^2.
        **keywords: The common keywords of region losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    over_sums = True

    def __init__(self, *, squared: bool = False, **keywords: Unpack[OverlapKeywords]) -> None:
        Overlap(**keywords)
        check_flag("squared", squared)
        super().__init__(dice_loss, squared=squared, **keywords)


@loss_function
def log_cosh_dice_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    squared: bool = False,
    **keywords: Unpack[OverlapKeywords],
) -> Tensor:
    """Functional form of :class:`LogCoshDiceLoss`."""
    checked = Overlap(**keywords)
    check_flag("squared", squared)
    counts = needs_counts(checked, input, voxel_weight)

    def value(sums: RegionSums) -> Tensor:
        size = (1 - dice_index(sums, checked, squared)).abs()
        # cosh d = exp(d) (1 + exp(-2 d)) / 2: exact at 0, and never too large.
        log_cosh = size + torch.log1p(torch.expm1(-2 * size) / 2)
        return reduce_region(log_cosh, sums, checked, counts)

    part = Part(dice_terms(squared, counts, checked.soft_label), value)
    return evaluate([part], input, target, voxel_weight, checked)


class LogCoshDiceLoss(Loss):
    """``log cosh DiceLoss`` per item and class, before the reduction.

    >>> loss = segloss_fast.LogCoshDiceLoss()
    >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
    tensor(0.2442)

    Its gradient is tanh(Dice loss) times that of Dice, so it fades out as the prediction gets
    right. Source: Jadon 2020, https://arxiv.org/abs/2006.14822.

    Args:
        squared: As in :class:`DiceLoss`.
        **keywords: The common keywords of region losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    over_sums = True

    def __init__(self, *, squared: bool = False, **keywords: Unpack[OverlapKeywords]) -> None:
        Overlap(**keywords)
        check_flag("squared", squared)
        super().__init__(log_cosh_dice_loss, squared=squared, **keywords)


@loss_function
def sensitivity_specificity_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    r: float = 0.05,
    **keywords: Unpack[RatioKeywords],
) -> Tensor:
    """Functional form of :class:`SensitivitySpecificityLoss`."""
    checked = Ratio(**keywords)
    check_number("r", r, minimum=0, maximum=1)

    def value(sums: RegionSums) -> Tensor:
        size, rest = sums.target, sums.weight - sums.target
        sensitivity = divide(sums.sq_err_pos, size + checked.smooth_dr)
        specificity = divide(sums.sq_err_neg, rest + checked.smooth_dr)
        return reduce_region(r * sensitivity + (1 - r) * specificity, sums, checked, counts=False)

    part = Part(("sq_err_pos", "sq_err_neg", "target", "weight"), value)
    return evaluate([part], input, target, voxel_weight, checked)


class SensitivitySpecificityLoss(Loss):
    """The mean squared error where the target is, and where it is not, weighed r to 1 - r.

    >>> loss = segloss_fast.SensitivitySpecificityLoss()
    >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
    tensor(0.1250)

    ``r sum t (p-t)^2 / (sum t + smooth_dr) + (1-r) sum (1-t) (p-t)^2 / (sum (1-t) + smooth_dr)``
    per item and class. An empty class predicted empty needs no smoothing here, so there is no
    ``smooth_nr``. Source: Brosch et al. 2015, https://doi.org/10.1007/978-3-319-24574-4_1.

    Args:
        r: The share of the error in the target (sensitivity), in [0, 1].
        **keywords: The common keywords of region losses, see :mod:`segloss_fast.losses`, but for
            ``smooth_nr``.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    over_sums = True

    def __init__(self, *, r: float = 0.05, **keywords: Unpack[RatioKeywords]) -> None:
        Ratio(**keywords)
        check_number("r", r, minimum=0, maximum=1)
        super().__init__(sensitivity_specificity_loss, r=r, **keywords)
