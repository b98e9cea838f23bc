"""The exponential logarithmic loss: powers of the logarithms of Dice and of probabilities."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor
from typing_extensions import Unpack

from segloss_fast._check import check_positive
from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._keywords import Region, RegionKeywords
from segloss_fast.losses._module import Loss
from segloss_fast.losses._reduce import (
    Part,
    check_factors,
    divide,
    evaluate,
    reduce_region,
    reduce_voxel,
)
from segloss_fast.losses.distribution import is_categorical
from segloss_fast.losses.region import dice_index, dice_terms
from segloss_fast.ops._voxels.maps import LOG_MIN, power
from segloss_fast.ops.region_sums import RegionSums


@loss_function
def exp_log_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    w_dice: float = 0.8,
    w_ce: float = 0.2,
    gamma: float = 0.3,
    **keywords: Unpack[RegionKeywords],
) -> Tensor:
    """Functional form of :class:`ExpLogLoss`."""
    checked = Region(**keywords)
    check_factors(w_dice=w_dice, w_ce=w_ce)
    check_positive("gamma", gamma)
    categorical = is_categorical(checked.activation, input)
    ce_keywords = replace(checked, include_background=True) if categorical else checked

    def dice(sums: RegionSums) -> Tensor:
        log = dice_index(sums, checked).clamp_min(math.exp(LOG_MIN)).log()
        return reduce_region(power(-log, gamma), sums, checked, counts=True)

    def cross_entropy(sums: RegionSums) -> Tensor:
        parts = power(divide(sums.weight, sums.target), 0.5) * sums.nll_pow
        return reduce_voxel(parts, sums.target if categorical else sums.weight, ce_keywords)

    parts = [
        Part(dice_terms(squared=False, counts=True), dice, w_dice),
        Part(("nll_pow", "target", "weight"), cross_entropy, w_ce),
    ]
    return evaluate(
        parts,
        input,
        target,
        voxel_weight,
        checked,
        has_background_row=ce_keywords.include_background,
        gamma=gamma,
    )


class ExpLogLoss(Loss):
    """Exponential logarithmic loss, in one pass.

    >>> loss = segloss_fast.ExpLogLoss()
    >>> loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 0, 1]]))
    tensor(0.9832)

    ``w_dice mean_c (-ln D_c)^gamma + w_ce mean_v v_l (-ln p_l)^gamma``, D_c the Dice of item and
    class, l the voxel's class, v_c = sqrt(N / target_c) by the counts of the item (of the batch
    with ``batch=True``). ``class_weight`` weighs both means. Logarithms are clamped to -100.
    ``include_background=False`` leaves the background out of Dice only; its row is then the second
    part alone. With ``activation="sigmoid"`` the second part is the mean over voxels and classes of
    the positives' share: false positives cost in Dice only, and the background is left out of
    both. Source: Wong et al. 2018, https://arxiv.org/abs/1809.00076.

    Args:
        w_dice: Factor of the Dice part.
        w_ce: Factor of the cross-entropy part.
        gamma: The exponent, above 0; below 1 the gradient rises again close to the right answer.
        **keywords: The common keywords of region losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    over_sums = True

    def __init__(
        self,
        *,
        w_dice: float = 0.8,
        w_ce: float = 0.2,
        gamma: float = 0.3,
        **keywords: Unpack[RegionKeywords],
    ) -> None:
        Region(**keywords)
        check_factors(w_dice=w_dice, w_ce=w_ce)
        check_positive("gamma", gamma)
        super().__init__(exp_log_loss, w_dice=w_dice, w_ce=w_ce, gamma=gamma, **keywords)
