"""The loss of Matthews' correlation coefficient: a region loss that counts true negatives too."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._keywords import Region, RegionKeywords
from segloss_fast.losses._module import Loss
from segloss_fast.losses._reduce import Part, evaluate, reduce_region
from segloss_fast.ops.region_sums import RegionSums


@loss_function
def mcc_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    **keywords: Unpack[RegionKeywords],
) -> Tensor:
    """Functional form of :class:`MCCLoss`."""
    checked = Region(**keywords)

    def value(sums: RegionSums) -> Tensor:
        loss = 1 - _coefficient(sums, checked)
        return reduce_region(loss, sums, checked, counts=False)

    part = Part(("tp", "fp", "fn", "target", "weight"), value)
    return evaluate([part], input, target, voxel_weight, checked)


def _coefficient(sums: RegionSums, keywords: Region) -> Tensor:
    # Not as pred - tp and target - tp: where one class fills nearly all of an item, the counts of
    # the rest are small, and their derivatives large.
    tp, fp, fn = sums.tp, sums.fp, sums.fn
    rest = sums.weight - sums.target
    tn = rest - fp
    square = (tp + fp) * sums.target * rest * (tn + fn) + keywords.smooth_dr
    # Where one side is empty, the coefficient is 0 / 0; rounding may even make the square negative.
    defined = ~(square <= 0)  # NaN counts as defined, so that it shows
    root = torch.where(defined, square, 1).sqrt()
    coefficient = torch.where(defined, (tp * tn - fp * fn + keywords.smooth_nr) / root, 0)
    return torch.where((fp == 0) & (fn == 0), 1, coefficient)


class MCCLoss(Loss):
    """One minus Matthews' correlation coefficient of the soft counts, per item and class.

    >>> loss = segloss_fast.MCCLoss()
    >>> loss(torch.eye(2)[None], torch.tensor([[0, 1]]))
    tensor(0.5379)

    ``1 - (tp tn - fp fn + smooth_nr) / sqrt((tp+fp) (tp+fn) (tn+fp) (tn+fn) + smooth_dr)``, from 0
    to 2; 0 where fp = fn = 0, as for an empty class predicted empty; 1 where prediction or target
    is empty, or everything. Equal to MONAI's of the same name (whose smooth_nr is 0 by default).
    Source: Abhishek and Hamarneh 2021, https://arxiv.org/abs/2010.13454.

    Args:
        **keywords: The common keywords of region losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    over_sums = True

    def __init__(self, **keywords: Unpack[RegionKeywords]) -> None:
        Region(**keywords)
        super().__init__(mcc_loss, **keywords)
