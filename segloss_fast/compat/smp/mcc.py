"""segmentation-models-pytorch's MCCLoss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from segloss_fast.compat._planned import planned
from segloss_fast.compat._volumes import plain, result_dtype
from segloss_fast.compat.smp._base import class_sums, tensors
from segloss_fast.compat.smp.constants import BINARY_MODE

__all__ = ["MCCLoss"]


class MCCLoss(_Loss):
    """segmentation-models-pytorch's MCCLoss, with its argument.

    >>> loss = segloss_fast.compat.smp.MCCLoss()
    >>> loss(torch.tensor([[[0.9, 0.2], [0.1, 0.7]]]), torch.eye(2)[None])
    tensor(0.3492)

    One minus Matthews' correlation coefficient of the whole batch, ``1 - (tp tn - fp fn) /
    sqrt((tp + fp) (tp + fn) (tn + fp) (tn + fn))``, of soft counts each with ``eps`` added.

    Args:
        eps: Added to each of the four counts.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    @planned
    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the loss of probabilities ``[B, *S]`` or ``[B, 1, *S]`` and a target of either."""
        y_pred = plain(y_pred)
        y_pred, y_true = tensors(y_pred if y_pred.is_floating_point() else y_pred.float(), y_true)
        if y_pred.shape[0] != y_true.shape[0] or y_pred.numel() != y_true.numel():
            raise RuntimeError(
                f"y_true must hold as many numbers as y_pred, got shapes {list(y_true.shape)} and "
                f"{list(y_pred.shape)}"
            )
        terms = ("tp", "fp", "fn", "target", "weight")
        sums = class_sums(y_pred, y_true, BINARY_MODE, "probabilities", terms)
        tp, fp, fn, target, weight = sums.unbind()
        # With tp + fn = T and fp + tn = R, tp tn - fp fn is tp R - fp T; each of the four counts
        # has eps added, T and R have it twice.
        eps = self.eps
        if not y_true.requires_grad:
            target = target.detach()
        t, r = target + 2 * eps, weight.detach() - target + 2 * eps
        numerator = torch.addcmul(eps * (r - t), tp, r).addcmul(fp, t, value=-1)
        square = (tp + fp + 2 * eps) * (r - fp + fn) * (r * t)
        loss = torch.addcmul(torch.ones_like(t), numerator, square.rsqrt(), value=-1)
        return loss.sum(dtype=result_dtype(y_pred, y_true))
