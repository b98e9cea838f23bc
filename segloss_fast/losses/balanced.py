"""Binary cross-entropy with weights for positives and negatives, alone and with Dice."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss_fast._check import check_number
from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._keywords import Region, RegionKeywords, Voxel, VoxelKeywords
from segloss_fast.losses._module import Loss
from segloss_fast.losses._reduce import Part, divide, evaluate, reduce_region, reduce_voxel
from segloss_fast.losses.region import dice_index, dice_terms
from segloss_fast.ops.region_sums import RegionSums

TERMS = ("nll", "nll_neg", "target", "weight")
Beta = Callable[[RegionSums], "Tensor | float"]


def _binary_part(keywords: Voxel, beta: Beta, factor: float = 1.0) -> Part:
    """Return the binary cross-entropy as a summand: beta for positives, 1 - beta for negatives."""

    def value(sums: RegionSums) -> Tensor:
        positive = beta(sums)
        parts = positive * sums.nll + (1 - positive) * sums.nll_neg
        return reduce_voxel(parts, sums.weight, keywords)

    def each(sums: RegionSums) -> RegionSums:
        positive = beta(sums)
        both = positive * sums.nll + (1 - positive) * sums.nll_neg
        return RegionSums(TERMS, torch.stack([both, both, sums.target, sums.weight]))

    return Part(TERMS, value, factor, each)


@loss_function
def balanced_cross_entropy_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    **keywords: Unpack[VoxelKeywords],
) -> Tensor:
    """Functional form of :class:`BalancedCrossEntropyLoss`."""
    checked = Voxel(**keywords)
    part = _binary_part(checked, lambda sums: 1 - divide(sums.target, sums.weight))
    return evaluate([part], input, target, voxel_weight, checked)


class BalancedCrossEntropyLoss(Loss):
    """Class-balanced binary cross-entropy, the mean over voxels and classes.

    >>> loss = segloss_fast.BalancedCrossEntropyLoss(activation="sigmoid")
    >>> loss(torch.zeros(1, 1, 4), torch.tensor([[0, 0, 0, 1]]))
    tensor(0.2599)

    ``-beta t log p - (1 - beta) (1 - t) log(1 - p)`` with beta = 1 - target / N, the share of the
    voxels that are not the class's, per item (of the batch with ``batch=True``) and class. Meant
    for ``activation="sigmoid"``; under softmax each class is taken against the rest. A class
    without a voxel has no share. Source: Xie and Tu 2015, https://arxiv.org/abs/1504.06375.

    Args:
        **keywords: The common keywords of voxel losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    over_sums = True

    def __init__(self, **keywords: Unpack[VoxelKeywords]) -> None:
        Voxel(**keywords)
        super().__init__(balanced_cross_entropy_loss, **keywords)


@loss_function
def combo_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    **keywords: Unpack[RegionKeywords],
) -> Tensor:
    """Functional form of :class:`ComboLoss`."""
    checked = Region(**keywords)
    _check_combo(alpha, beta)

    def gain(sums: RegionSums) -> Tensor:
        return reduce_region(-dice_index(sums, checked), sums, checked, counts=True)

    parts = [
        Part(dice_terms(squared=False, counts=True), gain, 1 - alpha),
        _binary_part(checked, lambda sums: beta, alpha),
    ]
    return evaluate(parts, input, target, voxel_weight, checked)


def _check_combo(alpha: float, beta: float) -> None:
    check_number("alpha", alpha, minimum=0, maximum=1)
    check_number("beta", beta, minimum=0, maximum=1)


class ComboLoss(Loss):
    """``alpha * binary cross-entropy - (1 - alpha) * Dice``, in one pass.

    >>> loss = segloss_fast.ComboLoss(activation="sigmoid", beta=0.7)
    >>> loss(torch.zeros(1, 1, 4), torch.tensor([[0, 0, 0, 1]]))
    tensor(-0.0280)

    The cross-entropy is the mean over voxels and classes of
    ``-beta t log p - (1 - beta) (1 - t) log(1 - p)``, Dice that of :class:`DiceLoss`, whose
    ``include_background=False`` leaves the background out of both. The loss of a perfect prediction
    is -(1 - alpha). Source: Taghanaki et al. 2018, https://arxiv.org/abs/1805.02798.

    Args:
        alpha: The share of cross-entropy, in [0, 1].
        beta: The weight of positives in cross-entropy, in [0, 1]; above 0.5, false negatives cost
            more than false positives.
        **keywords: The common keywords of region losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    over_sums = True

    def __init__(
        self, *, alpha: float = 0.5, beta: float = 0.5, **keywords: Unpack[RegionKeywords]
    ) -> None:
        Region(**keywords)
        _check_combo(alpha, beta)
        super().__init__(combo_loss, alpha=alpha, beta=beta, **keywords)
