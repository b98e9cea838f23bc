"""kornia's Dice and Tversky losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segloss_fast.compat._planned import planned
from segloss_fast.compat.kornia import _checks
from segloss_fast.compat.kornia._errors import BaseError, error
from segloss_fast.compat.kornia._sums import class_sums

IMAGES = (4, 5)  # dimensions of pred
AVERAGES = ("micro", "macro")


def dice_loss(
    pred: Tensor,
    target: Tensor,
    average: str = "micro",
    eps: float = 1e-8,
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
) -> Tensor:
    """The dice_loss of kornia, of volumes too.

    >>> segloss_fast.compat.kornia.dice_loss(torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4).long())
    tensor(0.5000)

    With the softmax of pred and the sums of each item and class, ``micro`` is
    ``1 - 2 sum_c(w tp) / (sum_c(w (pred + target)) + eps)`` per item. ``macro`` is the mean of
    ``1 - 2 tp / (pred + target + eps)`` over the classes that the item's target has, by the
    weights. Both are averaged over the batch. An item without a pixel that counts has a loss of 1.

    Args:
        pred: Logits ``[B, C, H, W]`` or ``[B, C, D, H, W]``.
        target: Class indices, int64 ``[B, H, W]`` or ``[B, D, H, W]``.
        average: ``"micro"`` or ``"macro"``.
        eps: What the denominator is raised by.
        weight: A number for each class, ``[C]``, or None.
        ignore_index: The label of pixels that do not count, or None.

    Returns:
        A scalar of the dtype of pred, or of the weight if it has more digits.

    Raises:
        TypeError: If pred, target or weight is no tensor.
        ValueError: If the shapes or devices do not fit each other, or labels lie outside [0, C).
        Exception: kornia's ``BaseError`` if the average, the target's dtype or the weight's shape
            or device is wrong.
    """
    pred, target = _checks.tensors(pred, target)
    _checks.check_pair(pred, target, IMAGES, ValueError)
    if average not in AVERAGES:
        raise error(BaseError, f"average must be one of {AVERAGES}, got {average!r}")
    _checks.check_labels(pred, target)
    _checks.check_weight("weight", weight, pred)
    sums = class_sums(pred, target, ("tp", "pred", "target"), ignore_index)
    w = None if weight is None else weight.flatten().to(sums.rows.dtype)
    dtype = pred.dtype if weight is None else torch.promote_types(pred.dtype, weight.dtype)
    if average == "micro":
        rows = sums.rows if w is None else sums.rows * w
        tp, p, t = rows.sum(2).unbind()
        safe = w is None and eps > 0  # no denominator of 0 then
        return (1 - _ratio(2 * tp, p + t, eps, safe=safe).mean()).to(dtype)
    loss = 1 - _ratio(2 * sums.tp, sums.pred + sums.target, eps, safe=eps > 0)
    share = (sums.target > 0).to(loss.dtype)
    share = share if w is None else share * w
    total = share.sum(1)
    empty = total == 0
    means = ((loss * share).sum(1) / total.masked_fill(empty, 1)).masked_fill(empty, 1)
    return means.mean().to(dtype)


def _ratio(numerator: Tensor, denominator: Tensor, eps: float, *, safe: bool) -> Tensor:
    """Return numerator / (denominator + eps), 0 where the denominator is 0 unless that is safe."""
    if safe:
        return numerator / (denominator + eps)
    empty = denominator == 0
    return (numerator / (denominator + eps).masked_fill(empty, 1)).masked_fill(empty, 0)


class DiceLoss(nn.Module):
    """kornia's DiceLoss, of volumes too, see :func:`dice_loss`.

    >>> loss = segloss_fast.compat.kornia.DiceLoss(average="macro")
    >>> loss(torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4).long())
    tensor(0.3333)

    Args:
        average: As for the function, and so are the others.
        eps: See average.
        weight: See average; a buffer that is not in the state dict, or a parameter if it is one.
        ignore_index: See average.
    """

    weight: Tensor | None

    def __init__(
        self,
        average: str = "micro",
        eps: float = 1e-8,
        weight: Tensor | None = None,
        ignore_index: int | None = -100,
    ) -> None:
        super().__init__()
        self.average = average
        self.eps = eps
        _checks.register_weight(self, "weight", weight)
        self.ignore_index = ignore_index

    @planned
    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits ``[B, C, *S]`` and class indices ``[B, *S]``."""
        return dice_loss(pred, target, self.average, self.eps, self.weight, self.ignore_index)


def tversky_loss(
    pred: Tensor,
    target: Tensor,
    alpha: float,
    beta: float,
    eps: float = 1e-8,
    ignore_index: int | None = -100,
) -> Tensor:
    """The tversky_loss of kornia, of volumes too.

    >>> x, target = torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4).long()
    >>> segloss_fast.compat.kornia.tversky_loss(x, target, alpha=0.3, beta=0.7)
    tensor(0.4118)

    With the softmax of pred and the sums of each item and class, the mean of
    ``1 - tp / (tp + alpha fp + beta fn + eps)`` over the classes that the item's target has, and
    over the batch. An item without a pixel that counts has a loss of 1.

    Args:
        pred: Logits ``[B, C, H, W]`` or ``[B, C, D, H, W]``.
        target: Class indices, int64 ``[B, H, W]`` or ``[B, D, H, W]``.
        alpha: Weight of false positives.
        beta: Weight of false negatives.
        eps: What the denominator is raised by.
        ignore_index: The label of pixels that do not count, or None.

    Returns:
        A scalar of the dtype of pred.

    Raises:
        TypeError: If pred or target is no tensor.
        ValueError: If the shapes or devices do not fit each other, or labels lie outside [0, C).
        Exception: kornia's ``BaseError`` if the target's dtype is wrong.
    """
    pred, target = _checks.tensors(pred, target)
    _checks.check_pair(pred, target, IMAGES, ValueError)
    _checks.check_labels(pred, target)
    tp, fp, fn = class_sums(pred, target, ("tp", "fp", "fn"), ignore_index).rows.unbind()
    absent = tp + fn == 0
    score = tp / (tp + alpha * fp + beta * fn + eps).masked_fill(absent, 1)
    score = score.masked_fill(absent, 0).sum(1) / (~absent).sum(1).clamp_min(1)
    return (1 - score.mean()).to(pred.dtype)


class TverskyLoss(nn.Module):
    """kornia's TverskyLoss, of volumes too, see :func:`tversky_loss`.

    >>> loss = segloss_fast.compat.kornia.TverskyLoss(alpha=0.3, beta=0.7)
    >>> loss(torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4).long())
    tensor(0.4118)

    Args:
        alpha: As for the function, and so are the others.
        beta: See alpha.
        eps: See alpha.
        ignore_index: See alpha.
    """

    def __init__(
        self, alpha: float, beta: float, eps: float = 1e-8, ignore_index: int | None = -100
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.eps = eps
        self.ignore_index = ignore_index

    @planned
    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits ``[B, C, *S]`` and class indices ``[B, *S]``."""
        return tversky_loss(pred, target, self.alpha, self.beta, self.eps, self.ignore_index)
