"""MONAI's Tversky loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


class TverskyLoss(MonaiLoss):
    """MONAI's TverskyLoss, with its arguments.

    >>> loss = segloss_fast.compat.monai.TverskyLoss(to_onehot_y=True, softmax=True, alpha=0.3)
    >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4))
    tensor(0.6667)

    Per item and class ``1 - (tp + smooth_nr) / (tp + alpha fp + beta fn + smooth_dr)``, with
    ``tp = sum p t``, ``fp = sum p (1 - t)`` and ``fn = sum (1 - p) t``. With ``soft_label`` tp is
    the sum of ``min(p, t)``, and fp and fn are what of p and t is left.

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
        alpha: float = 0.5,
        beta: float = 0.5,
        reduction: Any = "mean",  # noqa: ANN401
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        soft_label: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction=check_reduction(reduction))
        self._set_head(include_background, to_onehot_y, sigmoid, softmax, other_act)
        self.alpha = alpha
        self.beta = beta
        self.smooth_nr = float(smooth_nr)
        self.smooth_dr = float(smooth_dr)
        self.batch = batch
        self.soft_label = soft_label
        self.ignore_index = ignore_index

    @planned
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``[B, C, *S]`` against the same or class indices ``[B, 1, *S]``.

        With ``reduction="none"`` it is ``[B, C']``, or ``[C']`` if the items are pooled.

        Raises:
            AssertionError: If the shapes do not fit each other.
            ValueError: If labels are no class, or the reduction is unknown.
        """
        volumes = self._volumes(input, target, self.ignore_index)
        tp, fp, fn = self._counts(volumes)
        size = tp + self.alpha * fp + self.beta * fn
        score = one_minus(1, tp + self.smooth_nr, size + self.smooth_dr)
        return reduce(score, self.reduction).to(volumes.dtype)

    def _counts(self, volumes: Volumes) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is right, too much and missing in the prediction."""
        if not self.soft_label and not volumes.of_both:
            sums = volumes.sums(("tp", "fp", "fn"))
            rows = RegionSums(sums.terms, pooled(sums.rows, volumes, self.batch), sums.constant)
            return rows.tp, rows.fp, rows.fn
        sums = volumes.sums(overlap_terms(soft=self.soft_label))
        tp, pred, target = overlap(sums, volumes, self.batch, soft=self.soft_label)
        return tp, pred - tp, target - tp
