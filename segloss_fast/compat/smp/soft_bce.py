"""segmentation-models-pytorch's SoftBCEWithLogitsLoss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segloss_fast._check import widen
from segloss_fast.compat._planned import planned
from segloss_fast.compat._volumes import comparable
from segloss_fast.compat.smp._base import item_sums, tensors
from segloss_fast.compat.smp.constants import BINARY_MODE, MULTILABEL_MODE

__all__ = ["SoftBCEWithLogitsLoss"]


class SoftBCEWithLogitsLoss(nn.Module):
    """segmentation-models-pytorch's SoftBCEWithLogitsLoss, with its arguments.

    >>> loss = segloss_fast.compat.smp.SoftBCEWithLogitsLoss()
    >>> loss(torch.zeros(1, 1, 4, 4), torch.eye(4)[None, None])
    tensor(0.6931)

    torch's binary cross-entropy of logits and a target in [0, 1], 0 where the target is
    ``ignore_index``, where the mean counts it.

    Args:
        weight: Multiplied to the loss of each number; of any shape that fits the input.
        ignore_index: Target value that does not count.
        reduction: ``"mean"``, ``"sum"``; any other gives the loss of every number.
        smooth_factor: Makes s of the target 0 and 1 - s of 1.
        pos_weight: Multiplied to the part of the target 1; of any shape that fits the input.
    """

    __constants__ = ["weight", "pos_weight", "reduction", "ignore_index", "smooth_factor"]  # noqa: RUF012
    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int | None = -100,
        reduction: str = "mean",
        smooth_factor: float | None = None,
        pos_weight: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.smooth_factor = smooth_factor
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    @planned
    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the loss of logits and a target of the same shape."""
        y_pred, y_true = tensors(y_pred, y_true)
        if y_pred.shape != y_true.shape:
            raise ValueError(
                f"y_true must have the shape of y_pred, {list(y_pred.shape)}, got "
                f"{list(y_true.shape)}"
            )
        positive = None if self.pos_weight is None else self._positive(self.pos_weight, y_pred)
        elsewhere = self.weight is not None or (positive is None and self.pos_weight is not None)
        if elsewhere or self.reduction not in ("mean", "sum"):
            return self._by_maps(y_pred, y_true)
        target, ignored = self._target(y_true), comparable(self.ignore_index, y_true)
        dtype = target.dtype if target.is_floating_point() else y_pred.dtype  # as torch's
        if target is not y_true and ignored is not None:
            target, ignored = target.masked_fill(y_true == ignored, -1), -1
        mode = BINARY_MODE if positive is None or positive.numel() == 1 else MULTILABEL_MODE
        terms = ("nll", "nll_neg")
        sums = item_sums(y_pred, target, mode, "sigmoid", terms, ignore_index=ignored)
        if positive is not None:
            sums = torch.addcmul(sums[1], positive.to(sums), sums[0])
        loss = sums.sum()
        loss = loss / y_true.numel() if self.reduction == "mean" else loss
        return loss.to(dtype)

    def _positive(self, weight: Tensor, y_pred: Tensor) -> Tensor | None:
        """Return the weights of the target 1, one or one per class; None if there are more."""
        axis = y_pred.dim() - 1
        if weight.dim() > y_pred.dim():
            return None
        if weight.numel() == 1:
            return weight.reshape(1)
        # Counted from the last dimension, as they are broadcast, that of the classes is this one.
        if 1 <= axis <= weight.dim() and weight.shape[-axis] == weight.numel() == y_pred.shape[1]:
            return weight.reshape(-1)
        return None

    def _target(self, y_true: Tensor) -> Tensor:
        if self.smooth_factor is None:
            return y_true
        y_true = y_true if y_true.is_floating_point() else y_true.to(torch.get_default_dtype())
        return (1 - y_true) * self.smooth_factor + y_true * (1 - self.smooth_factor)

    def _by_maps(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the loss by way of the loss of every number."""
        target = self._target(y_true)
        target = target if target.is_floating_point() else target.to(y_pred.dtype)
        x = widen(y_pred)
        loss = F.binary_cross_entropy_with_logits(
            x,
            target.to(torch.promote_types(x.dtype, target.dtype)),
            self.weight,
            pos_weight=self.pos_weight,
            reduction="none",
        )
        if self.ignore_index is not None:
            loss = loss * (y_true != self.ignore_index).to(loss)
        if self.reduction in ("mean", "sum"):
            loss = loss.mean() if self.reduction == "mean" else loss.sum()
        return loss.to(target.dtype)
