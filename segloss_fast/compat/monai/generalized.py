"""MONAI's generalised Dice loss."""

from __future__ import annotations

from collections.abc import Callable
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
    pooled,
    reduce,
)
from segloss_fast.ops.region_sums import RegionSums

WEIGHTS = ("square", "simple", "uniform")


class GeneralizedDiceLoss(MonaiLoss):
    """MONAI's GeneralizedDiceLoss, with its arguments.

    >>> loss = segloss_fast.compat.monai.GeneralizedDiceLoss(to_onehot_y=True, softmax=True)
    >>> loss(torch.zeros(1, 2, 4, 4), torch.arange(16).view(1, 1, 4, 4) % 2)
    tensor(0.5000)

    Per item ``1 - (2 sum_c w_c tp_c + smooth_nr) / (sum_c w_c (pred_c + target_c) + smooth_dr)``.
    The weight w of a class is 1 over its size, or its square, or 1; absent classes have the largest
    weight of the others.

    Raises:
        TypeError: If ``other_act`` is not callable.
        ValueError: If more than one activation is given, or the reduction or ``w_type`` is unknown.
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        w_type: Any = "square",  # noqa: ANN401
        reduction: Any = "mean",  # noqa: ANN401
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        soft_label: bool = False,
    ) -> None:
        super().__init__(reduction=check_reduction(reduction))
        self._set_head(include_background, to_onehot_y, sigmoid, softmax, other_act)
        self.w_type = _check_weight_type(w_type)
        self.smooth_nr = float(smooth_nr)
        self.smooth_dr = float(smooth_dr)
        self.batch = batch
        self.soft_label = soft_label

    def w_func(self, grnd: Tensor) -> Tensor:
        """Return the weights of classes of these sizes; infinite for 0."""
        if self.w_type == "simple":
            return grnd.reciprocal()
        return (grnd * grnd).reciprocal() if self.w_type == "square" else torch.ones_like(grnd)

    @planned
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``[B, C, *S]`` against the same or class indices ``[B, 1, *S]``.

        With ``reduction="none"`` it is ``[B, 1, 1...]``, or ``[1, 1...]`` if the items are pooled.

        Raises:
            AssertionError: If the shapes do not fit each other.
            ValueError: If labels are no class, or the reduction is unknown.
        """
        volumes = self._volumes(input, target)
        return self._of(volumes.sums(self._terms(volumes)), volumes).to(self._dtype(volumes))

    def _dtype(self, volumes: Volumes) -> torch.dtype:
        """Return the dtype of the loss; its weights are float32."""
        return torch.promote_types(volumes.dtype, torch.float32)

    def _terms(self, volumes: Volumes) -> tuple[str, ...]:
        """Return the sums that the loss needs."""
        return overlap_terms(soft=self.soft_label)

    def _of(self, sums: RegionSums, volumes: Volumes) -> Tensor:
        """Return the loss, float64, given the sums of the classes that have a share."""
        if self.soft_label or sums.terms[:3] != self._terms(volumes):
            rows = torch.stack(overlap(sums, volumes, self.batch, soft=self.soft_label))
        else:
            rows = pooled(sums.rows[:3], volumes, self.batch)
        weight = self._weights(rows[2] if volumes.target.requires_grad else rows[2].detach())
        tp, pred, target = (rows * weight).sum(-1, keepdim=True).unbind()
        f = one_minus(2, tp + self.smooth_nr / 2, pred + target + self.smooth_dr)
        return reduce(f, self.reduction, volumes.input.dim() - 2)

    def _weights(self, size: Tensor) -> Tensor:
        """Return the weights of classes of these sizes, ``[..., C']``."""
        size = size.float()  # as MONAI's are: their square is 0 below 1e-23
        weight = self.w_func(size)
        if self.w_type not in ("simple", "square"):
            return weight
        absent = weight.isinf()
        if weight.requires_grad:  # of sizes that are not 0, which have a finite derivative
            weight = self.w_func(size.masked_fill(absent, 1))
        weight = weight.masked_fill(absent, 0)
        return torch.where(absent, weight.amax(-1, keepdim=True), weight)


def _check_weight_type(w_type: Any) -> str:  # noqa: ANN401
    """Return the name of how classes are weighted, or raise ValueError."""
    value = getattr(w_type, "value", w_type)
    if isinstance(value, str) and value.strip() in WEIGHTS:
        return value.strip()
    raise ValueError(f"w_type must be one of {list(WEIGHTS)}, got {w_type!r}")
