"""Region losses that weigh false positives and false negatives: Tversky, Jaccard, focal Tversky."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from segloss_fast._check import check_number, check_positive
from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._keywords import Overlap, OverlapKeywords, Region
from segloss_fast.losses._module import Loss
from segloss_fast.losses._reduce import Part, evaluate, ratio, reduce_region
from segloss_fast.losses.region import dice_terms, needs_counts, overlap
from segloss_fast.ops._voxels.maps import power
from segloss_fast.ops.region_sums import RegionSums


def tversky_index(
    tp: Tensor, pred: Tensor, target: Tensor, weights: tuple[float, float], keywords: Region
) -> Tensor:
    """Return Tversky's index; ``weights`` are those of false positives and negatives."""
    alpha, beta = weights
    # tp + alpha (pred - tp) + beta (target - tp)
    size = alpha * pred + beta * target + (1 - alpha - beta) * tp
    return ratio(tp, size, keywords.smooth_nr, keywords.smooth_dr)


@loss_function
def jaccard_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    **keywords: Unpack[OverlapKeywords],
) -> Tensor:
    """Functional form of :class:`JaccardLoss`."""
    return tversky_loss(input, target, voxel_weight, alpha=1, beta=1, **keywords)


class JaccardLoss(Loss):
    """Soft Jaccard (IoU) loss, ``1 - (tp + smooth_nr) / (pred + target - tp + smooth_dr)``.

    >>> loss = segloss_fast.JaccardLoss()
    >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
    tensor(0.7500)

    Source: Rahman and Wang 2016, https://doi.org/10.1007/978-3-319-50835-1_22.

    Args:
        **keywords: The common keywords of region losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    over_sums = True

    def __init__(self, **keywords: Unpack[OverlapKeywords]) -> None:
        Overlap(**keywords)
        super().__init__(jaccard_loss, **keywords)


@loss_function
def tversky_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    **keywords: Unpack[OverlapKeywords],
) -> Tensor:
    """Functional form of :class:`TverskyLoss`."""
    checked = Overlap(**keywords)
    _check_tversky(alpha, beta)
    counts = needs_counts(checked, input, voxel_weight)

    def value(sums: RegionSums) -> Tensor:
        index = tversky_index(
            overlap(sums, checked), sums.pred, sums.target, (alpha, beta), checked
        )
        return reduce_region(1 - index, sums, checked, counts)

    part = Part(dice_terms(False, counts, checked.soft_label), value)
    return evaluate([part], input, target, voxel_weight, checked)


def _check_tversky(alpha: float, beta: float) -> None:
    check_number("alpha", alpha, minimum=0)
    check_number("beta", beta, minimum=0)


class TverskyLoss(Loss):
    """Tversky loss, ``1 - (tp + smooth_nr) / (tp + alpha FP + beta FN + smooth_dr)``.

    >>> loss = segloss_fast.TverskyLoss(alpha=0.3, beta=0.7)
    >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
    tensor(0.7059)

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

    over_sums = True

    def __init__(
        self, *, alpha: float = 0.5, beta: float = 0.5, **keywords: Unpack[OverlapKeywords]
    ) -> None:
        Overlap(**keywords)
        _check_tversky(alpha, beta)
        super().__init__(tversky_loss, alpha=alpha, beta=beta, **keywords)


@loss_function
def focal_tversky_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 4 / 3,
    **keywords: Unpack[OverlapKeywords],
) -> Tensor:
    """Functional form of :class:`FocalTverskyLoss`."""
    checked = Overlap(**keywords)
    _check_tversky(alpha, beta)
    check_positive("gamma", gamma)
    counts = needs_counts(checked, input, voxel_weight)

    def value(sums: RegionSums) -> Tensor:
        index = tversky_index(
            overlap(sums, checked), sums.pred, sums.target, (alpha, beta), checked
        )
        return reduce_region(power(1 - index, 1 / gamma), sums, checked, counts)

    part = Part(dice_terms(False, counts, checked.soft_label), value)
    return evaluate([part], input, target, voxel_weight, checked)


class FocalTverskyLoss(Loss):
    """Focal Tversky loss, ``TverskyLoss^(1 / gamma)`` per item and class, before the reduction.

    >>> loss = segloss_fast.FocalTverskyLoss()
    >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
    tensor(0.7570)

    A gamma above 1 raises the gradient of classes that are nearly right, below 1 that of the
    others. Where the index is 1 or more (``smooth_nr`` above ``smooth_dr``) the loss and its
    gradient are 0. Source: Abraham and Khan 2019, https://arxiv.org/abs/1810.07842 (whose alpha is
    that of false negatives).

    Args:
        alpha: Weight of false positives, at least 0.
        beta: Weight of false negatives, at least 0.
        gamma: Above 0.
        **keywords: The common keywords of region losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    over_sums = True

    def __init__(
        self,
        *,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 4 / 3,
        **keywords: Unpack[OverlapKeywords],
    ) -> None:
        Overlap(**keywords)
        _check_tversky(alpha, beta)
        check_positive("gamma", gamma)
        super().__init__(focal_tversky_loss, alpha=alpha, beta=beta, gamma=gamma, **keywords)
