"""segmentation-models-pytorch's MCCLoss."""

from __future__ import annotations

from torch import Tensor
from torch.nn.modules.loss import _Loss

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
        rest = weight - target
        tn = rest - fp
        tp, fp, fn, tn = (count + self.eps for count in (tp, fp, fn, tn))
        square = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        loss = 1.0 - (tp * tn - fp * fn) / square.sqrt()
        return loss[0].to(result_dtype(y_pred, y_true))
