"""segmentation-models-pytorch's JaccardLoss."""

from __future__ import annotations

from segloss_fast.compat.smp.dice import RegionLoss

__all__ = ["JaccardLoss"]


class JaccardLoss(RegionLoss):
    """segmentation-models-pytorch's JaccardLoss, with its arguments.

    >>> loss = segloss_fast.compat.smp.JaccardLoss("multiclass")
    >>> loss(torch.zeros(1, 2, 4, 4), torch.eye(4, dtype=torch.long)[None])
    tensor(0.6857)

    Per class, over the whole batch, ``1 - (tp + smooth) / max(tp + fp + fn + smooth, eps)``; in all
    else as :class:`~segloss_fast.compat.smp.DiceLoss`, whose arguments it has.

    Raises:
        AssertionError: If the mode is unknown, or classes are given in the binary mode.
        ValueError: If class weights are given in the binary mode.
    """

    def _rates(self) -> tuple[float, float]:
        return 1.0, 1.0
