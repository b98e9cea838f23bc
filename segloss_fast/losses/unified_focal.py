"""The asymmetric unified focal loss: a focal cross-entropy and a focal Tversky loss."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss_fast._check import check_number
from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._keywords import Region, RegionKeywords
from segloss_fast.losses._module import Loss
from segloss_fast.losses._reduce import Part, evaluate, reduce_region, reduce_voxel
from segloss_fast.losses.distribution import is_categorical
from segloss_fast.losses.region import dice_terms
from segloss_fast.losses.tversky import tversky_index
from segloss_fast.ops._voxels.maps import power
from segloss_fast.ops.region_sums import RegionSums


@loss_function
def unified_focal_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    weight: float = 0.5,
    delta: float = 0.6,
    gamma: float = 0.5,
    **keywords: Unpack[RegionKeywords],
) -> Tensor:
    """Functional form of :class:`UnifiedFocalLoss`."""
    checked = Region(**keywords)
    _check_unified(weight, delta, gamma)
    categorical = is_categorical(checked.activation, input)
    parts = [
        _focal_part(checked, categorical, delta, weight),
        _tversky_part(checked, categorical, (delta, gamma), 1 - weight),
    ]
    return evaluate(parts, input, target, voxel_weight, checked, gamma=gamma)


def _check_unified(weight: float, delta: float, gamma: float) -> None:
    check_number("weight", weight, minimum=0, maximum=1)
    check_number("delta", delta, minimum=0, maximum=1)
    check_number("gamma", gamma, minimum=0, maximum=1)


def _focal_part(keywords: Region, categorical: bool, delta: float, factor: float) -> Part:
    """Return the cross-entropy, whose easy background counts less, as a summand."""

    def value(sums: RegionSums) -> Tensor:
        if not categorical:
            parts = delta * sums.nll + (1 - delta) * sums.focal_neg
            return reduce_voxel(parts, sums.weight, keywords)
        parts = torch.cat([(1 - delta) * sums.focal[:, :1], delta * sums.nll[:, 1:]], 1)
        # The mean runs over voxels: each class has its share of them.
        classes = parts.shape[1] - (0 if keywords.include_background else 1)
        return reduce_voxel(parts, sums.weight / classes, keywords)

    return Part(("nll", "focal" if categorical else "focal_neg", "weight"), value, factor)


def _tversky_part(
    keywords: Region, categorical: bool, shape: tuple[float, float], factor: float
) -> Part:
    """Return Tversky, whose foreground has a power below one, as a summand."""
    delta, gamma = shape

    def index(tp: Tensor, pred: Tensor, target: Tensor) -> Tensor:
        return tversky_index(tp, pred, target, (1 - delta, delta), keywords)

    def value(sums: RegionSums) -> Tensor:
        loss = 1 - index(sums.tp, sums.pred, sums.target)
        loss = torch.cat([loss[:, :1], power(loss, 1 - gamma)[:, 1:]], 1)
        return reduce_region(loss, sums, keywords, counts=True)

    def of_both_sides(sums: RegionSums) -> Tensor:
        # Not by pred - tp and target - tp: the background may be a small rest of the item.
        rest = sums.weight - sums.target
        tn = rest - sums.fp
        foreground = power(1 - index(sums.tp, sums.tp + sums.fp, sums.target), 1 - gamma)
        background = 1 - index(tn, tn + sums.fn, rest)
        return reduce_region((background + foreground) / 2, sums, keywords, counts=True)

    if categorical:
        return Part(dice_terms(squared=False, counts=True), value, factor)
    return Part(("tp", "fp", "fn", "target", "weight"), of_both_sides, factor)


class UnifiedFocalLoss(Loss):
    """Asymmetric unified focal loss, for any number of classes, in one pass.

    >>> loss = segloss_fast.UnifiedFocalLoss()
    >>> loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 0, 1]]))
    tensor(0.4317)

    ``weight * focal + (1 - weight) * Tversky``. Focal: the mean over voxels of ``-delta log p`` in
    the foreground and of ``-(1 - delta) (1 - p)^gamma log p`` in the background (class 0), p the
    probability of the voxel's class. Tversky: the mean over classes of 1 - TI for the background
    and (1 - TI)^(1 - gamma) for the foreground, ``TI = (tp + smooth_nr) / (tp + (1 - delta) FP +
    delta FN + smooth_dr)``. With ``activation="sigmoid"`` every class has a background of its own,
    1 - p, and the means run over the classes too; one class is then as two under softmax. MONAI's
    AsymmetricUnifiedFocalLoss (two classes) divides the focal part by 2.
    Source: Yeung et al. 2022, https://arxiv.org/abs/2102.04525.

    Args:
        weight: The share of the focal part, in [0, 1].
        delta: The weight of the foreground and of false negatives, in [0, 1].
        gamma: In [0, 1]: how far easy background is suppressed, and rare foreground enhanced.
        **keywords: The common keywords of region losses, see :mod:`segloss_fast.losses`;
            ``include_background=False`` leaves the background out of both parts.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    over_sums = True

    def __init__(
        self,
        *,
        weight: float = 0.5,
        delta: float = 0.6,
        gamma: float = 0.5,
        **keywords: Unpack[RegionKeywords],
    ) -> None:
        Region(**keywords)
        _check_unified(weight, delta, gamma)
        super().__init__(unified_focal_loss, weight=weight, delta=delta, gamma=gamma, **keywords)
