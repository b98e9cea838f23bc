"""MONAI's loss of Matthews' correlation coefficient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from segloss_fast.compat._planned import planned
from segloss_fast.compat.monai._base import MonaiLoss, check_reduction, pooled, reduce
from segloss_fast.ops.region_sums import RegionSums


class MCCLoss(MonaiLoss):
    """MONAI's MCCLoss, with its arguments.

    >>> loss = segloss_fast.compat.monai.MCCLoss(to_onehot_y=True, softmax=True)
    >>> loss(torch.zeros(1, 2, 4, 4), torch.arange(16).view(1, 1, 4, 4) % 2)
    tensor(1.)

    Per item and class ``1 - (tp tn - fp fn + smooth_nr) / sqrt((tp + fp) (tp + fn) (tn + fp) (tn +
    fn) + smooth_dr)``, and 0 where ``fp = fn = 0``.

    Raises:
        TypeError: If ``other_act`` is not callable.
        ValueError: If more than one activation is given, or the reduction is unknown.
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        reduction: Any = "mean",  # noqa: ANN401
        smooth_nr: float = 0.0,
        smooth_dr: float = 1e-5,
        batch: bool = False,
    ) -> None:
        super().__init__(reduction=check_reduction(reduction))
        self._set_head(include_background, to_onehot_y, sigmoid, softmax, other_act)
        self.smooth_nr = float(smooth_nr)
        self.smooth_dr = float(smooth_dr)
        self.batch = batch

    @planned
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``[B, C, *S]`` against the same or class indices ``[B, 1, *S]``.

        With ``reduction="none"`` it is ``[B, C']``, or ``[C']`` if the items are pooled.

        Raises:
            AssertionError: If the shapes do not fit each other.
            ValueError: If labels are no class, or the reduction is unknown.
        """
        volumes = self._volumes(input, target)
        sums = volumes.sums(("tp", "fp", "fn", "target", "weight"))
        rows = RegionSums(sums.terms, pooled(sums.rows, volumes, self.batch), sums.constant)
        tp, fp, fn = rows.tp, rows.fp, rows.fn
        rest = rows.weight - rows.target
        tn = rest - fp
        # In float64 the product of four counts is far from the largest number.
        square = (tp + fp) * rows.target * rest * (tn + fn) + self.smooth_dr
        score = 1 - (tp * tn - fp * fn + self.smooth_nr) / square.sqrt()
        score = torch.where((fp == 0) & (fn == 0), 0, score)
        dtype = volumes.dtype
        if not target.is_floating_point():  # of which 1 - target has this one
            dtype = torch.promote_types(dtype, torch.float32)
        return reduce(score, self.reduction).to(dtype)
