"""kornia's focal loss of classes that exclude each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segloss_fast._check import widen
from segloss_fast.compat._planned import planned
from segloss_fast.compat._volumes import result_dtype
from segloss_fast.compat.kornia import _checks
from segloss_fast.compat.kornia._errors import BaseError
from segloss_fast.compat.kornia._sums import class_sums

_NO_LABEL = torch.iinfo(torch.int64).min


def focal_loss(
    pred: Tensor,
    target: Tensor,
    alpha: float | None,
    gamma: float = 2.0,
    reduction: str = "none",
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
) -> Tensor:
    """The focal_loss of kornia.

    >>> x, target = torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4).long()
    >>> segloss_fast.compat.kornia.focal_loss(x, target, alpha=0.25, reduction="mean")
    tensor(0.0217)

    With p the softmax of pred at the target, each pixel has
    ``-w alpha_t (1 - p)^gamma log p`` at its class, and 0 at the others; alpha_t is
    ``1 - alpha`` for class 0 and ``alpha`` for the others, and w the class's weight. Pixels that do
    not count have 0, and are counted by the mean, which is over all pixels and all classes.

    The reductions ``"mean"`` and ``"sum"`` are one pass over memory for a gamma that is a number.

    Args:
        pred: Logits ``[B, C, *S]``, S of any rank.
        target: Class indices, int64 ``[B, *S]``.
        alpha: Weight of the classes from 1 on, or None for no weights.
        gamma: The exponent.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: A number for each class, ``[C]``, or None.
        ignore_index: The label of pixels that do not count, or None.

    Returns:
        ``[B, C, *S]`` for the reduction ``"none"``, else a scalar.

    Raises:
        TypeError: If pred, target or weight is no tensor.
        ValueError: If pred has less than two dimensions, or labels lie outside [0, C).
        NotImplementedError: If the reduction is unknown.
        Exception: kornia's ``BaseError`` if shapes or devices do not fit each other, or the
            target's dtype is wrong.
    """
    pred, target = _checks.tensors(pred, target)
    _checks.check_pair(pred, target, None, BaseError)
    _checks.check_labels(pred, target)
    _checks.check_weight("weight", weight, pred)
    _checks.check_reduction(reduction)
    dtype = result_dtype(pred, weight)
    fused = isinstance(gamma, (int, float)) and 0 <= gamma < float("inf")
    if reduction == "none" or not fused or pred.shape[1] == 1:
        x = widen(pred)
        factors = _factors(alpha, weight, pred.shape[1], x)
        found = _map(x, target, gamma, factors, ignore_index)
        if reduction != "none":
            found = found.mean() if reduction == "mean" else found.sum()
        return found.to(dtype)
    term = "focal" if gamma else "nll"
    rows = class_sums(pred, target, (term,), ignore_index, gamma).rows[0]
    factors = _factors(alpha, weight, pred.shape[1], rows)
    total = (rows if factors is None else rows * factors).sum()
    return (total / pred.numel() if reduction == "mean" else total).to(dtype)


def _factors(
    alpha: float | None, weight: Tensor | None, classes: int, like: Tensor
) -> Tensor | None:
    """Return the factors of the classes, ``[C]``, or None for factors of 1."""
    factors = None if weight is None else weight.flatten().to(like.dtype)
    if alpha is None:
        return factors
    alphas = like.new_full((classes,), float(alpha))
    alphas[0] = 1 - float(alpha)
    return alphas if factors is None else alphas * factors


def _map(
    x: Tensor, target: Tensor, gamma: float, factors: Tensor | None, ignore_index: int | None
) -> Tensor:
    """Return the loss of ``[B, C, *S]``, of the same shape."""
    if isinstance(gamma, Tensor) and gamma.dim():
        raise TypeError(f"gamma must be a number, got a tensor of shape {list(gamma.shape)}")
    index = target[:, None]
    if ignore_index is not None:
        counted = index != ignore_index
        x = x.masked_fill(~counted, 0)  # so that a NaN there has no gradient
        index = index.where(counted, index.new_zeros(()))
    _check_range(index, x.shape[1])
    ignored = _NO_LABEL if ignore_index is None else ignore_index
    nll = F.cross_entropy(x, target, reduction="none", ignore_index=ignored)
    # The derivative of the power may be infinite at 0, where the logarithm is 0.
    miss = -torch.expm1(-nll)
    hit = miss == 0
    power = torch.where(hit, miss.detach().pow(gamma), miss.masked_fill(hit, 1).pow(gamma))
    found = (power * nll)[:, None]
    found = found if factors is None else found * factors[index]
    return torch.zeros_like(x).scatter(1, index, found)


def _check_range(index: Tensor, classes: int) -> None:
    """Raise ValueError if labels are no class; on a GPU the operators below fail."""
    if index.device.type != "cpu" or torch.compiler.is_compiling() or not index.numel():
        return
    low, high = index.aminmax()
    if low < 0 or high >= classes:
        raise ValueError(
            f"target must hold class indices in [0, {classes}) or ignore_index, got values from "
            f"{int(low)} to {int(high)}"
        )


class FocalLoss(nn.Module):
    """kornia's FocalLoss, see :func:`focal_loss`.

    >>> loss = segloss_fast.compat.kornia.FocalLoss(alpha=0.25, reduction="mean")
    >>> loss(torch.zeros(1, 2, 4, 4), torch.ones(1, 4, 4).long())
    tensor(0.0217)

    Args:
        alpha: As for the function, and so are the others.
        gamma: See alpha.
        reduction: See alpha.
        weight: See alpha; a buffer that is not in the state dict, or a parameter if it is one.
        ignore_index: See alpha.
    """

    weight: Tensor | None

    def __init__(
        self,
        alpha: float | None,
        gamma: float = 2.0,
        reduction: str = "none",
        weight: Tensor | None = None,
        ignore_index: int | None = -100,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        self.reduction = reduction
        _checks.register_weight(self, "weight", weight)
        self.ignore_index = ignore_index

    @planned
    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits ``[B, C, *S]`` and class indices ``[B, *S]``."""
        return focal_loss(
            pred, target, self.alpha, self.gamma, self.reduction, self.weight, self.ignore_index
        )
