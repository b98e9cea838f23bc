"""MONAI's Dice losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from segloss_fast.compat._planned import planned
from segloss_fast.compat._volumes import Volumes
from segloss_fast.compat.monai._base import (
    MonaiLoss,
    check_reduction,
    one_minus,
    overlap,
    overlap_terms,
    reduce,
)
from segloss_fast.ops.region_sums import RegionSums


class DiceLoss(MonaiLoss):
    """MONAI's DiceLoss, with its arguments.

    >>> loss = segloss_fast.compat.monai.DiceLoss(to_onehot_y=True, softmax=True)
    >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4))
    tensor(0.6667)

    Per item and class ``1 - (2 tp + smooth_nr) / (pred + target + smooth_dr)``.

    Raises:
        TypeError: If ``other_act`` is not callable.
        ValueError: If more than one activation is given, or the reduction is unknown.
    """

    class_weight: Tensor | None
    _checked: tuple[int, int] | None = None  # the weight on a GPU that has no negative number

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        squared_pred: bool = False,
        jaccard: bool = False,
        reduction: Any = "mean",  # noqa: ANN401
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        weight: Sequence[float] | float | Tensor | None = None,
        soft_label: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction=check_reduction(reduction))
        self._set_head(include_background, to_onehot_y, sigmoid, softmax, other_act)
        self.squared_pred = squared_pred
        self.jaccard = jaccard
        self.smooth_nr = float(smooth_nr)
        self.smooth_dr = float(smooth_dr)
        self.batch = batch
        self.ignore_index = ignore_index
        self.register_buffer("class_weight", None if weight is None else torch.as_tensor(weight))
        self.soft_label = soft_label

    @planned
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``[B, C, *S]`` against the same or class indices ``[B, 1, *S]``."""
        return self._of_volumes(self._volumes(input, target, self.ignore_index))

    def _of_volumes(self, volumes: Volumes) -> Tensor:
        sums = volumes.sums(self._terms(volumes))
        return self._of(sums, volumes).to(volumes.dtype)

    def _terms(self, volumes: Volumes) -> tuple[str, ...]:
        """Return the sums that the loss needs."""
        return overlap_terms(squared=self.squared_pred, soft=self.soft_label)

    def _of(self, sums: RegionSums, volumes: Volumes) -> Tensor:
        """Return the loss, float64, given the sums of the classes that have a share."""
        options = {"squared": self.squared_pred, "soft": self.soft_label}
        tp, pred, target = overlap(sums, volumes, self.batch, **options)
        size = pred + target
        both = 2 * (size - tp) if self.jaccard else size
        f = one_minus(2, tp + self.smooth_nr / 2, both + self.smooth_dr)
        return reduce(self._weighted(f, sums), self.reduction, volumes.input.dim() - 2)

    def _weighted(self, f: Tensor, sums: RegionSums) -> Tensor:
        """Return the losses of the classes times their weights."""
        classes = sums.rows.shape[-1]
        if self.class_weight is None or classes == 1:
            return f
        if self.class_weight.ndim == 0:  # so MONAI's checkpoints have it
            self.class_weight = self.class_weight.repeat(classes)
        elif self.class_weight.shape[0] != classes:
            raise ValueError(
                f"weight must hold {classes} numbers, one per class (without the background if "
                f"include_background=False), got {self.class_weight.shape[0]}"
            )
        self._check_weight(self.class_weight)
        return f * self.class_weight.to(f)

    def _check_weight(self, weight: Tensor) -> None:
        """Raise ValueError if a weight is negative; on a GPU, which that waits for, once each."""
        if torch.compiler.is_compiling() or self._checked == (id(weight), weight._version):
            return
        if weight.min() < 0:
            raise ValueError(f"weight must not be negative, got {weight.tolist()}")
        if weight.is_cuda:
            self._checked = id(weight), weight._version
