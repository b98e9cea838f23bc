"""kornia's Lovász losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segloss_fast._check import REAL
from segloss_fast.compat.kornia import _checks
from segloss_fast.compat.kornia._errors import ShapeError, error
from segloss_fast.ops.lovasz import lovasz


def lovasz_softmax_loss(pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """The lovasz_softmax_loss of kornia, of volumes too.

    >>> x, target = torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4).long()
    >>> segloss_fast.compat.kornia.lovasz_softmax_loss(x, target)
    tensor(0.5000)

    The Lovász extension of the Jaccard loss for every image and class, at the errors
    ``abs(t - p)``, averaged over the batch and, times the weights, over all classes. A class that
    an image does not have counts with its largest p. Below 2^18 pixels an image it is exact, above
    it is that of :func:`segloss_fast.lovasz` by bins.

    Args:
        pred: Logits ``[B, C, H, W]`` or ``[B, C, D, H, W]`` of two classes or more.
        target: Class indices ``[B, H, W]`` or ``[B, D, H, W]``; a pred of one item is compared
            with each.
        weight: A number for each class, ``[C]``, or None.

    Returns:
        A scalar of the dtype of pred, or of the weight if it has more digits.

    Raises:
        TypeError: If pred, target or weight is no tensor.
        ValueError: If shapes or devices do not fit each other, or labels lie outside [0, C).
        Exception: kornia's ``BaseError`` if the weight's shape or device is wrong.
    """
    pred, target = _checks.tensors(pred, target)
    _check_ranks(pred, target)
    if pred.shape[1] < 2:
        raise ValueError(f"pred must have two classes or more, got shape {list(pred.shape)}")
    if pred.shape[0] == 1:
        pred = pred.expand(target.shape[0], *pred.shape[1:])
    _checks.check_pair(pred, target, None, ValueError)
    _checks.check_weight("weight", weight, pred)
    if target.is_floating_point() or target.dtype not in REAL:
        target = target.to(torch.int64)
    loss = lovasz(pred, target, per_image=True).loss.mean(0)
    if weight is None:
        return loss.mean().to(pred.dtype)
    dtype = torch.promote_types(pred.dtype, weight.dtype)
    return (loss * weight.flatten().to(loss.dtype)).mean().to(dtype)


class LovaszSoftmaxLoss(nn.Module):
    """kornia's LovaszSoftmaxLoss, of volumes too, see :func:`lovasz_softmax_loss`.

    >>> loss = segloss_fast.compat.kornia.LovaszSoftmaxLoss()
    >>> loss(torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4).long())
    tensor(0.5000)

    Args:
        weight: As for the function; a buffer that is not in the state dict, or a parameter if it
            is one.
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None) -> None:
        super().__init__()
        _checks.register_weight(self, "weight", weight)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits ``[B, C, *S]`` and class indices ``[B, *S]``."""
        return lovasz_softmax_loss(pred, target, self.weight)


def lovasz_hinge_loss(pred: Tensor, target: Tensor) -> Tensor:
    """The lovasz_hinge_loss of kornia, of volumes too.

    >>> x, target = torch.zeros(1, 1, 4, 4), torch.ones(1, 4, 4).long()
    >>> segloss_fast.compat.kornia.lovasz_hinge_loss(x, target)
    tensor(1.)

    The Lovász extension of the Jaccard loss for every image, at the errors
    ``max(0, 1 - x (2 t - 1))``, averaged over the batch. Below 2^18 pixels an image it is exact,
    above it is that of :func:`segloss_fast.lovasz` by bins. Targets that hold other numbers than 0
    and 1 get kornia's sum over the sorted errors in plain PyTorch; on a GPU and in a compiled graph
    nobody may look at them, and they make the loss NaN.

    Args:
        pred: Logits ``[B, 1, H, W]`` or ``[B, 1, D, H, W]``.
        target: 0 or 1, ``[B, H, W]`` or ``[B, D, H, W]``, of any dtype.

    Returns:
        A scalar of the dtype of pred, or float32 for integers.

    Raises:
        TypeError: If pred or target is no tensor.
        ValueError: If shapes or devices do not fit each other.
    """
    pred, target = _checks.tensors(pred, target)
    _check_ranks(pred, target)
    if pred.shape[1] != 1:
        message = f"pred must have one channel, got shape {list(pred.shape)}"
        raise error(ShapeError, message)
    _checks.check_pair(pred, target, None, ValueError)
    if not pred.is_floating_point():
        pred = pred.float()
    if target.requires_grad and torch.is_grad_enabled():
        return _of_any_target(pred, target)
    labels = target if target.dtype == torch.bool else target.bool()
    wrong = None if labels is target else (labels != target).any()
    if wrong is None or (pred.device.type == "cpu" and not torch.compiler.is_compiling()):
        if wrong is not None and wrong:
            return _of_any_target(pred, target)
        wrong = None
    loss = lovasz(pred, labels, activation="hinge", per_image=True).loss.mean()
    loss = loss if wrong is None else torch.where(wrong, torch.nan, loss)
    return loss.to(pred.dtype)


def _of_any_target(pred: Tensor, target: Tensor) -> Tensor:
    """Return the loss of a target of any numbers, as if they were shares of 1."""
    x, t = pred.flatten(1).double(), target.flatten(1).double()
    errors, order = (1 - x * (2 * t - 1)).sort(1, descending=True)
    t = t.gather(1, order)
    total = t.sum(1, keepdim=True)
    jaccard = 1 - (total - t.cumsum(1)) / (total + (1 - t).cumsum(1))
    steps = torch.diff(jaccard, dim=1, prepend=torch.zeros_like(total))
    return (errors.relu() * steps).sum(1).mean().to(pred.dtype)


def _check_ranks(pred: Tensor, target: Tensor) -> None:
    """Raise kornia's error of tensors that are no images, unless they are volumes."""
    if pred.dim() not in (4, 5) or target.dim() != pred.dim() - 1:
        raise error(
            ShapeError,
            "pred must be [B, C, H, W] or [B, C, D, H, W] and target the same without C, got "
            f"{list(pred.shape)} and {list(target.shape)}",
        )


class LovaszHingeLoss(nn.Module):
    """kornia's LovaszHingeLoss, of volumes too, see :func:`lovasz_hinge_loss`.

    >>> loss = segloss_fast.compat.kornia.LovaszHingeLoss()
    >>> loss(torch.zeros(1, 1, 4, 4), torch.ones(1, 4, 4).long())
    tensor(1.)
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits ``[B, 1, *S]`` and labels ``[B, *S]``."""
        return lovasz_hinge_loss(pred, target)
