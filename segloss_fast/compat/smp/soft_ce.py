"""segmentation-models-pytorch's SoftCrossEntropyLoss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from segloss_fast._check import widen
from segloss_fast.compat._planned import planned
from segloss_fast.compat._volumes import comparable, result_dtype
from segloss_fast.compat.smp._base import item_sums, tensors, weighed
from segloss_fast.compat.smp._functional import label_smoothed_nll_loss
from segloss_fast.compat.smp.constants import MULTICLASS_MODE

__all__ = ["SoftCrossEntropyLoss"]


class SoftCrossEntropyLoss(nn.Module):
    """segmentation-models-pytorch's SoftCrossEntropyLoss, with its arguments.

    >>> loss = segloss_fast.compat.smp.SoftCrossEntropyLoss(smooth_factor=0.1)
    >>> loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]]))
    tensor(0.6931)

    ``-(1 - s) log p_y - s / C sum_c log p_c``, p the softmax and s the ``smooth_factor``; 0 where
    ignored, where the mean counts it.

    Args:
        reduction: ``"mean"``, ``"sum"``; any other gives the loss of every voxel, with a dimension
            of size 1 for the classes if ``ignore_index`` is given.
        smooth_factor: Share of the target that is spread evenly over the classes; 0 if None.
        ignore_index: Label that does not count.
        dim: The dimension of the classes.
    """

    __constants__ = ["reduction", "ignore_index", "smooth_factor"]  # noqa: RUF012

    def __init__(
        self,
        reduction: str = "mean",
        smooth_factor: float | None = None,
        ignore_index: int | None = -100,
        dim: int = 1,
    ) -> None:
        super().__init__()
        self.smooth_factor = smooth_factor
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.dim = dim

    @planned
    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the loss of logits ``[B, C, *S]`` and class indices ``[B, *S]``."""
        y_pred, y_true = tensors(y_pred, y_true)
        dim, share = self.dim, self.smooth_factor or 0.0
        x = y_pred if dim == 1 else y_pred.movedim(dim, 1)
        voxels = (x.shape[0], *x.shape[2:])
        labels = y_true.movedim(dim, 1) if y_true.dim() == y_pred.dim() else y_true
        single = labels.shape in (voxels, (voxels[0], 1, *voxels[1:]))
        if x.shape[1] == 1 or not single or self.reduction not in ("mean", "sum"):
            lprobs = torch.log_softmax(widen(y_pred), dim)
            loss = label_smoothed_nll_loss(
                lprobs, y_true, share, self.ignore_index, self.reduction, dim
            )
            return loss.to(y_pred.dtype)
        terms = ("nll", "nll_all") if share else ("nll",)
        ignored = comparable(self.ignore_index, labels)
        sums = item_sums(x, labels, MULTICLASS_MODE, "softmax", terms, ignore_index=ignored)
        factor = 1.0
        if self.reduction == "mean":
            factor = 1 / labels.numel() if labels.numel() else math.nan
        loss = weighed(sums, [(1 - share) * factor, share / x.shape[1] * factor][: len(terms)])
        return loss.to(result_dtype(y_pred))
