"""segmentation-models-pytorch's TverskyLoss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from segloss_fast.compat.smp._functional import soft_tversky_score
from segloss_fast.compat.smp.dice import DiceLoss

__all__ = ["TverskyLoss"]


class TverskyLoss(DiceLoss):
    """segmentation-models-pytorch's TverskyLoss, with its arguments.

    >>> loss = segloss_fast.compat.smp.TverskyLoss("multiclass", alpha=0.3, beta=0.7)
    >>> loss(torch.zeros(1, 2, 4, 4), torch.eye(4, dtype=torch.long)[None])
    tensor(0.5299)

    Per class, over the whole batch, ``1 - (tp + smooth) / max(tp + alpha fp + beta fn + smooth,
    eps)``; the mean over the classes has the exponent ``gamma``. In all else as
    :class:`~segloss_fast.compat.smp.DiceLoss`.

    Args:
        mode: As for DiceLoss, and so are the others but these three.
        classes: See mode.
        log_loss: See mode.
        from_logits: See mode.
        smooth: See mode.
        ignore_index: See mode.
        eps: See mode.
        alpha: The weight of false positives.
        beta: The weight of false negatives.
        gamma: The exponent of the mean. With less than 1 the gradient of a loss of 0 is NaN.
        class_weights: See mode.

    Raises:
        AssertionError: If the mode is unknown, or classes are given in the binary mode.
        ValueError: If class weights are given in the binary mode.
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
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 1.0,
        class_weights: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__(
            mode, classes, log_loss, from_logits, smooth, ignore_index, eps, class_weights
        )
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma

    def aggregate_loss(self, loss: Tensor) -> Tensor:
        """Return the mean over the classes, given the loss of each, to the power of gamma."""
        mean = super().aggregate_loss(loss)
        return mean if self.gamma == 1 else mean**self.gamma

    def compute_score(
        self,
        output: Tensor,
        target: Tensor,
        smooth: float = 0.0,
        eps: float = 1e-7,
        dims: int | Sequence[int] | None = None,
    ) -> Tensor:
        """Return the ratios of probabilities and target, as DiceLoss's method does."""
        return soft_tversky_score(output, target, self.alpha, self.beta, smooth, eps, dims)

    def _rates(self) -> tuple[float, float]:
        return self.alpha, self.beta

    @classmethod
    def _scored_by_sums(cls) -> tuple[Any, ...]:
        return (TverskyLoss.compute_score,)
