"""segmentation-models-pytorch's DiceLoss, and what it shares with Jaccard and Tversky."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.loss import _Loss

from segloss_fast.compat._planned import planned
from segloss_fast.compat._volumes import result_dtype
from segloss_fast.compat.smp._base import (
    check_class_weights,
    check_mode,
    class_sums,
    tensors,
)
from segloss_fast.compat.smp._functional import soft_dice_score, to_tensor
from segloss_fast.compat.smp.constants import BINARY_MODE, MULTICLASS_MODE, MULTILABEL_MODE

__all__ = ["DiceLoss"]


class RegionLoss(_Loss):
    """A ratio of sums over the whole batch, per class, and the mean over the classes.

    Attributes:
        mode: What the classes are to each other.
        classes: The classes that have a share, int64, or None.
        from_logits: Whether the input gets a softmax or sigmoid.
        smooth: Added to numerator and denominator.
        eps: The least denominator.
        log_loss: Whether the loss is minus the logarithm of the ratio.
        ignore_index: The label of voxels that do not count.
        class_weights: A weight for each class, float32, or None.
    """

    def __init__(
        self,
        mode: str,
        classes: Sequence[int] | Tensor | None = None,
        log_loss: bool = False,
        from_logits: bool = True,
        smooth: float = 0.0,
        ignore_index: int | None = None,
        eps: float = 1e-7,
        class_weights: Sequence[float] | Tensor | None = None,
    ) -> None:
        check_mode(mode)
        super().__init__()
        self.mode = mode
        check_class_weights(mode, class_weights)
        if classes is not None:
            if mode == BINARY_MODE:
                raise AssertionError("classes are not supported with mode=binary")
            classes = to_tensor(classes, dtype=torch.long)
        self.classes = classes
        self.from_logits = from_logits
        self.smooth = smooth
        self.eps = eps
        self.log_loss = log_loss
        self.ignore_index = ignore_index
        self.class_weights = to_tensor(class_weights, dtype=torch.float)

    @planned
    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the loss, a scalar of y_pred's dtype.

        Args:
            y_pred: ``[B, C, *S]``.
            y_true: ``[B, *S]`` or ``[B, 1, *S]``; in the multi-label mode ``[B, C, *S]``.
        """
        y_pred, y_true = tensors(y_pred, y_true)
        self._check_sizes(y_pred, y_true)
        scores, present = self._scores(y_pred, y_true)
        loss = -torch.log(scores.clamp_min(self.eps)) if self.log_loss else 1.0 - scores
        loss = loss * present  # not selected, so that a NaN still shows
        if self.classes is not None:
            loss = loss[self._chosen(loss.device)]
        return self._mean(loss).to(result_dtype(y_pred, self.class_weights))

    def _check_sizes(self, y_pred: Tensor, y_true: Tensor) -> None:
        batch, numbers = y_pred.shape[0], y_pred.numel()
        if y_true.shape[0] != batch:
            raise AssertionError(
                f"y_true must have as many items as y_pred, {batch}, got {y_true.shape[0]}"
            )
        if self.mode == MULTICLASS_MODE:
            numbers //= max(y_pred.shape[1], 1)
        if y_true.numel() == numbers:
            return
        parts = batch * (y_pred.shape[1] if self.mode == MULTILABEL_MODE else 1)
        uneven = self.ignore_index is not None or y_true.numel() % max(parts, 1) > 0
        raise (RuntimeError if uneven else AssertionError)(
            f"y_true must hold {numbers} numbers in mode {self.mode!r} for y_pred of shape "
            f"{list(y_pred.shape)}, got shape {list(y_true.shape)}"
        )

    def _scores(self, y_pred: Tensor, y_true: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ratio of each class, float64 ``[C]``, and whether the target has it."""
        activation = "sigmoid" if self.mode != MULTICLASS_MODE else "softmax"
        # Of one-hot values and numbers in [0, 1] the smaller is the product.
        soft = self.mode != MULTICLASS_MODE or not self.from_logits
        tp, pred, target = class_sums(
            y_pred,
            y_true,
            self.mode,
            activation if self.from_logits else "probabilities",
            ("tp_soft" if soft else "tp", "pred", "target"),
            ignore_index=self.ignore_index,
        ).unbind()
        alpha, beta = self._rates()
        size = torch.add(alpha * pred, target, alpha=beta)
        if alpha + beta != 1:
            size = size + (1 - alpha - beta) * tp
        if self.smooth:
            tp, size = tp + self.smooth, size + self.smooth
        return tp / size.clamp_min(self.eps), target > 0

    def _rates(self) -> tuple[float, float]:
        """Return the weights of false positives and false negatives."""
        raise NotImplementedError

    def _chosen(self, device: torch.device) -> Tensor:
        return torch.as_tensor(self.classes).to(device, non_blocking=True)

    def _mean(self, loss: Tensor) -> Tensor:
        if self.class_weights is None:
            return loss.mean()
        weights = self.class_weights.to(loss.device, non_blocking=True)
        if self.classes is not None:
            weights = weights[self._chosen(loss.device)]
        mean: Tensor = (loss * weights).sum() / weights.sum()
        return mean


class DiceLoss(RegionLoss):
    """segmentation-models-pytorch's DiceLoss, with its arguments.

    >>> loss = segloss_fast.compat.smp.DiceLoss("multiclass")
    >>> loss(torch.zeros(1, 2, 4, 4), torch.eye(4, dtype=torch.long)[None])
    tensor(0.5333)

    Per class, over the whole batch, ``1 - (tp + smooth) / max(tp + (fp + fn) / 2 + smooth, eps)``,
    or minus the logarithm of this ratio; 0 where the target has no such class, which the mean over
    the classes counts. tp is the sum of min(p, t).

    Args:
        mode: ``"binary"``, ``"multiclass"`` or ``"multilabel"``.
        classes: The classes that have a share; all if None.
        log_loss: Whether the loss is minus the logarithm of the ratio, which is at least ``eps``.
        from_logits: Whether the input gets a softmax or, for the other modes, a sigmoid.
        smooth: Added to numerator and denominator.
        ignore_index: Voxels with this label do not count.
        eps: The least denominator.
        class_weights: A weight for each class: the mean is the weighted mean.

    Raises:
        AssertionError: If the mode is unknown, or classes are given in the binary mode.
        ValueError: If class weights are given in the binary mode.
    """

    def aggregate_loss(self, loss: Tensor) -> Tensor:
        """Return the mean over the classes, given the loss of each, ``[C]``."""
        return super()._mean(loss)

    def compute_score(
        self,
        output: Tensor,
        target: Tensor,
        smooth: float = 0.0,
        eps: float = 1e-7,
        dims: int | Sequence[int] | None = None,
    ) -> Tensor:
        """Return the ratios of probabilities and target, ``[B, C, V]``; for subclasses.

        The loss calls it only where a subclass has its own, because it needs whole volumes.
        """
        return soft_dice_score(output, target, smooth, eps, dims)

    def _rates(self) -> tuple[float, float]:
        return 0.5, 0.5

    def _mean(self, loss: Tensor) -> Tensor:
        return self.aggregate_loss(loss)

    def _scores(self, y_pred: Tensor, y_true: Tensor) -> tuple[Tensor, Tensor]:
        if type(self).compute_score in self._scored_by_sums():
            return super()._scores(y_pred, y_true)
        p, t = self._volumes(y_pred, y_true)
        scores = self.compute_score(p, t, smooth=self.smooth, eps=self.eps, dims=(0, 2))
        return scores, t.sum((0, 2)) > 0

    @classmethod
    def _scored_by_sums(cls) -> tuple[Any, ...]:
        """Return the methods whose ratios this package takes from sums."""
        return (DiceLoss.compute_score,)

    def _volumes(self, y_pred: Tensor, y_true: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities and target, ``[B, C, V]``, without what is ignored."""
        p, batch = y_pred, y_pred.shape[0]
        if self.from_logits:
            p = torch.softmax(p, 1) if self.mode == MULTICLASS_MODE else torch.sigmoid(p)
        p = p.reshape(batch, 1 if self.mode == BINARY_MODE else p.shape[1], -1)
        t = y_true.reshape(batch, -1 if self.mode == MULTILABEL_MODE else 1, p.shape[2])
        kept = None if self.ignore_index is None else t != self.ignore_index
        t = t if kept is None else t * kept
        if self.mode == MULTICLASS_MODE:
            t = F.one_hot(t[:, 0].long(), p.shape[1]).movedim(-1, 1)
        t = t.to(p)
        return (p, t) if kept is None else (p * kept, t * kept)
