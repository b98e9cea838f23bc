"""Region losses: one minus a ratio of sums. Dice, Jaccard, Tversky."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from segloss_fast._check import check_flag, check_input, check_number
from segloss_fast.losses._keywords import Region, RegionKeywords
from segloss_fast.losses._module import Loss
from segloss_fast.losses._reduce import Part, evaluate, ratio, reduce_region
from segloss_fast.ops.region_sums import RegionSums


def needs_counts(keywords: Region, input: Tensor, voxel_weight: Tensor | None) -> bool:
    """Whether an item may have no voxel that counts, and its ratio would then differ from 1."""
    check_input(input)
    may_be_empty = (
        keywords.ignore_index is not None or voxel_weight is not None or input.numel() == 0
    )
    return may_be_empty and keywords.smooth_nr != keywords.smooth_dr and keywords.smooth_dr != 0


def dice_part(keywords: Region, counts: bool, squared: bool, factor: float = 1.0) -> Part:
    """Return Dice as a summand (see :func:`dice_loss`); ``counts``: :func:`needs_counts`."""
    check_flag("squared", squared)
    terms = ("tp", "pred_sq", "target_sq", "target") if squared else ("tp", "pred", "target")

    def value(sums: RegionSums) -> Tensor:
        pred = sums.pred_sq if squared else sums.pred
        target = sums.target_sq if squared else sums.target
        dice = ratio(2 * sums.tp, pred + target, keywords.smooth_nr, keywords.smooth_dr)
        return reduce_region(1 - dice, sums, keywords, counts)

    return Part((*terms, "weight") if counts else terms, value, factor)


def dice_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    squared: bool = False,
    **keywords: Unpack[RegionKeywords],
) -> Tensor:
    """Functional form of :class:`DiceLoss`."""
    checked = Region(**keywords)
    part = dice_part(checked, needs_counts(checked, input, voxel_weight), squared)
    return _evaluate(part, input, target, voxel_weight, checked)


class DiceLoss(Loss):
    """Soft Dice loss, ``1 - (2 tp + smooth_nr) / (pred + target + smooth_dr)`` per item and class.

    tp sums p t, pred sums p and target sums t over the voxels (times the voxel weight).
    Sources: Milletari et al. 2016 (squared), https://arxiv.org/abs/1606.04797; Sudre et al. 2017,
    https://arxiv.org/abs/1707.03237.

    Args:
        squared: Whether the denominator sums p^2 and t^2.
        **keywords: The common keywords of region losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    def __init__(self, *, squared: bool = False, **keywords: Unpack[RegionKeywords]) -> None:
        Region(**keywords)
        check_flag("squared", squared)
        super().__init__(dice_loss, squared=squared, **keywords)


def jaccard_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    **keywords: Unpack[RegionKeywords],
) -> Tensor:
    """Functional form of :class:`JaccardLoss`."""
    return tversky_loss(input, target, voxel_weight, alpha=1, beta=1, **keywords)


class JaccardLoss(Loss):
    """Soft Jaccard (IoU) loss, ``1 - (tp + smooth_nr) / (pred + target - tp + smooth_dr)``.

    Source: Rahman and Wang 2016, https://doi.org/10.1007/978-3-319-50835-1_22.

    Args:
        **keywords: The common keywords of region losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    def __init__(self, **keywords: Unpack[RegionKeywords]) -> None:
        Region(**keywords)
        super().__init__(jaccard_loss, **keywords)


def tversky_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    **keywords: Unpack[RegionKeywords],
) -> Tensor:
    """Functional form of :class:`TverskyLoss`."""
    checked = Region(**keywords)
    _check_tversky(alpha, beta)
    counts = needs_counts(checked, input, voxel_weight)

    def value(sums: RegionSums) -> Tensor:
        # tp + alpha (pred - tp) + beta (target - tp)
        size = alpha * sums.pred + beta * sums.target + (1 - alpha - beta) * sums.tp
        index = ratio(sums.tp, size, checked.smooth_nr, checked.smooth_dr)
        return reduce_region(1 - index, sums, checked, counts)

    terms = ("tp", "pred", "target", "weight") if counts else ("tp", "pred", "target")
    return _evaluate(Part(terms, value), input, target, voxel_weight, checked)


def _check_tversky(alpha: float, beta: float) -> None:
    check_number("alpha", alpha, minimum=0)
    check_number("beta", beta, minimum=0)


class TverskyLoss(Loss):
    """Tversky loss, ``1 - (tp + smooth_nr) / (tp + alpha FP + beta FN + smooth_dr)``.

    FP = pred - tp and FN = target - tp. alpha = beta = 0.5 is Dice (with half its smoothing), 1 is
    Jaccard.
    Source: Salehi et al. 2017, https://arxiv.org/abs/1706.05721.

    Args:
        alpha: Weight of false positives, at least 0.
        beta: Weight of false negatives, at least 0.
        **keywords: The common keywords of region losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    def __init__(
        self, *, alpha: float = 0.5, beta: float = 0.5, **keywords: Unpack[RegionKeywords]
    ) -> None:
        Region(**keywords)
        _check_tversky(alpha, beta)
        super().__init__(tversky_loss, alpha=alpha, beta=beta, **keywords)


def _evaluate(
    part: Part, input: Tensor, target: Tensor, voxel_weight: Tensor | None, keywords: Region
) -> Tensor:
    return evaluate(
        [part],
        input,
        target,
        voxel_weight,
        keywords,
        has_background_row=keywords.include_background,
    )
