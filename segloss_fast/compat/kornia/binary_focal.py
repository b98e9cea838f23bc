"""kornia's focal loss of classes that may overlap."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from segloss_fast._check import widen
from segloss_fast.compat._planned import planned
from segloss_fast.compat._volumes import Volumes, flat, result_dtype
from segloss_fast.compat.kornia import _checks
from segloss_fast.compat.kornia._errors import BaseError, ShapeError, error
from segloss_fast.ops._voxels.labels import can_hold
from segloss_fast.ops.region_sums import region_sums


def binary_focal_loss_with_logits(
    pred: Tensor,
    target: Tensor,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    pos_weight: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = -100,
) -> Tensor:
    """The binary_focal_loss_with_logits of kornia.

    >>> x, target = torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4)
    >>> loss = segloss_fast.compat.kornia.binary_focal_loss_with_logits
    >>> loss(x, target, reduction="mean")
    tensor(0.0433)

    With p the sigmoid of pred, and t the target, each value has
    ``-w (v alpha t (1 - p)^gamma log p + (1 - alpha) (1 - t) p^gamma log(1 - p))``, with the
    class's weight w and weight of positives v. Values that do not count have 0, and are counted by
    the mean, which is over all values.

    The reductions ``"mean"`` and ``"sum"`` are one pass over memory for an alpha and a gamma that
    are numbers. Integers other than 0, 1 and ``ignore_index`` make their result NaN on a GPU.

    Args:
        pred: Logits ``[B, C, *S]``, S of any rank.
        target: Values in [0, 1], of the same shape.
        alpha: Weight of positives, and one less that of negatives; None for no weights.
        gamma: The exponent.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        pos_weight: A number for each class, ``[C]``, that positives count; or None.
        weight: A number for each class, ``[C]``, or None.
        ignore_index: The value of target that does not count, or None.

    Returns:
        ``[B, C, *S]`` for the reduction ``"none"``, else a scalar.

    Raises:
        TypeError: If pred, target or a weight is no tensor.
        ValueError: If pred has less than two dimensions.
        NotImplementedError: If the reduction is unknown.
        Exception: kornia's ``BaseError`` if shapes or devices do not fit each other.
    """
    pred, target = _checks.tensors(pred, target)
    if pred.dim() < 2:
        message = f"pred must be [B, C, *] with two dimensions or more, got {list(pred.shape)}"
        raise error(ShapeError, message)
    if pred.shape != target.shape:
        message = f"target must have pred's shape {list(pred.shape)}, got {list(target.shape)}"
        raise error(BaseError, message)
    _checks.check_device("target", target, pred, BaseError)
    _checks.check_weight("pos_weight", pos_weight, pred)
    _checks.check_weight("weight", weight, pred)
    _checks.check_reduction(reduction)
    dtype = result_dtype(pred, target, pos_weight, weight)
    if not target.is_floating_point():  # one less it is a number of the default dtype
        dtype = torch.promote_types(dtype, torch.get_default_dtype())
    numbers = isinstance(gamma, (int, float)) and isinstance(alpha, (int, float, type(None)))
    if reduction == "none" or not numbers or not 0 <= gamma < float("inf"):
        found = _map(pred, target, alpha, gamma, pos_weight, ignore_index)
        found = found if weight is None else found * _along(weight, found)
        if reduction != "none":
            found = found.mean() if reduction == "mean" else found.sum()
        return found.to(dtype)
    positive, negative = _sums(pred, target, gamma, ignore_index)
    if alpha is not None:
        positive, negative = alpha * positive, (1 - alpha) * negative
    if pos_weight is not None:
        positive = positive * pos_weight.flatten().to(positive.dtype)
    rows = positive + negative
    total = (rows if weight is None else rows * weight.flatten().to(rows.dtype)).sum()
    return (total / pred.numel() if reduction == "mean" else total).to(dtype)


def _sums(
    pred: Tensor, target: Tensor, gamma: float, ignore_index: int | None
) -> tuple[Tensor, Tensor]:
    """Return the sums of what positives and negatives have, float64 ``[B, C]``."""
    terms = ("focal", "focal_neg") if gamma else ("nll", "nll_neg")
    batch, classes = pred.shape[:2]
    if ignore_index is None or not can_hold(target.dtype, ignore_index):
        rows = Volumes(pred, "sigmoid", target).sums(terms, gamma=gamma).rows
    else:  # which may be in one class and not in another: so each is an item of its own
        pred = pred.reshape(-1, 1, *pred.shape[2:])
        rows = _rows(pred, target.reshape(pred.shape), terms, gamma, ignore_index)
    positive, negative = rows.view(2, batch, classes)
    return positive, negative


def _rows(
    pred: Tensor, target: Tensor, terms: tuple[str, ...], gamma: float, ignore_index: int
) -> Tensor:
    """Return the sums of one class, ``[2, B, 1]``."""
    looked_at = pred.device.type == "cpu" and not torch.compiler.is_compiling()
    if looked_at or not target.is_floating_point():
        with contextlib.suppress(ValueError):  # of values outside [0, 1], which kornia takes
            return region_sums(
                flat(pred, 2),
                flat(target, 2),
                activation="sigmoid",
                terms=terms,
                gamma=gamma,
                ignore_index=ignore_index,
            ).rows
    volumes = Volumes(pred, "sigmoid", target, ignore_index=ignore_index)
    return volumes.sums(terms, gamma=gamma).rows


def _map(
    pred: Tensor,
    target: Tensor,
    alpha: float | None,
    gamma: float,
    pos_weight: Tensor | None,
    ignore_index: int | None,
) -> Tensor:
    """Return the loss ``[B, C, *S]`` without the classes' weights, float32 for half precision."""
    x = widen(pred)
    t = target.to(torch.promote_types(x.dtype, target.dtype))
    # The factors go to the target, which has no backward pass as a rule.
    positive, negative = -t, t - 1
    if alpha is not None:
        positive, negative = alpha * positive, (1 - alpha) * negative
    if pos_weight is not None:
        positive = positive * _along(pos_weight, positive)
    log_p, log_q = logsigmoid(x), logsigmoid(-x)
    found = (gamma * log_q).exp() * log_p * positive + (gamma * log_p).exp() * log_q * negative
    return found if ignore_index is None else found.masked_fill(target == ignore_index, 0)


def _along(weight: Tensor, values: Tensor) -> Tensor:
    """Return weights ``[C]`` as a factor of values ``[B, C, *S]``."""
    return weight.to(values.dtype).view(-1, *[1] * (values.dim() - 2))


class BinaryFocalLossWithLogits(nn.Module):
    """kornia's BinaryFocalLossWithLogits, see :func:`binary_focal_loss_with_logits`.

    >>> loss = segloss_fast.compat.kornia.BinaryFocalLossWithLogits(alpha=0.25, reduction="mean")
    >>> loss(torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4))
    tensor(0.0433)

    Args:
        alpha: As for the function, but without a default; and so are the others.
        gamma: See alpha.
        reduction: See alpha.
        pos_weight: See alpha; a buffer that is not in the state dict, or a parameter if it is one.
        weight: As pos_weight.
        ignore_index: See alpha.
    """

    pos_weight: Tensor | None
    weight: Tensor | None

    def __init__(
        self,
        alpha: float | None,
        gamma: float = 2.0,
        reduction: str = "none",
        pos_weight: Tensor | None = None,
        weight: Tensor | None = None,
        ignore_index: int | None = -100,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        self.reduction = reduction
        _checks.register_weight(self, "pos_weight", pos_weight)
        _checks.register_weight(self, "weight", weight)
        self.ignore_index = ignore_index

    @planned
    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits ``[B, C, *S]`` and values in [0, 1] of the same shape."""
        return binary_focal_loss_with_logits(
            pred,
            target,
            self.alpha,
            self.gamma,
            self.reduction,
            self.pos_weight,
            self.weight,
            self.ignore_index,
        )
