"""The functions of segmentation-models-pytorch's losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segloss_fast._check import widen
from segloss_fast.compat._volumes import plain
from segloss_fast.ops._voxels.maps import row_dtype

__all__ = [
    "focal_loss_with_logits",
    "label_smoothed_nll_loss",
    "soft_dice_score",
    "soft_jaccard_score",
    "soft_tversky_score",
    "softmax_focal_loss_with_logits",
    "to_tensor",
    "wing_loss",
]


def to_tensor(x: Any, dtype: torch.dtype | None = None) -> Any:  # noqa: ANN401
    """Return a tensor of a tensor, an array, a list or a tuple; None of anything else.

    >>> segloss_fast.compat.smp._functional.to_tensor([1, 2])
    tensor([1, 2])
    """
    if isinstance(x, (list, tuple)):
        found = torch.as_tensor(x)
        wide = torch.float64 if found.is_floating_point() else found.dtype
        return torch.as_tensor(x, dtype=wide if dtype is None else dtype)
    if hasattr(x, "__array_interface__"):
        x = torch.as_tensor(x)
    if not isinstance(x, Tensor):
        return None
    return x if dtype is None else x.to(dtype)


def focal_maps(
    output: Tensor,
    target: Tensor,
    gamma: float,
    alpha: float | None,
    reduced_threshold: float | None,
) -> tuple[Tensor, Tensor]:
    """Return the binary focal loss of every voxel, and the factor of its cross-entropy."""
    target = target.to(output)
    nll = F.binary_cross_entropy_with_logits(output, target, reduction="none")
    term = _focal_term(nll, gamma, reduced_threshold)
    loss = term * nll
    if alpha is not None:
        loss = loss * (alpha * target + (1 - alpha) * (1 - target))
    return loss, term


def _focal_term(nll: Tensor, gamma: float, reduced_threshold: float | None) -> Tensor:
    wrong = -torch.expm1(-nll)
    if reduced_threshold is None:
        return wrong.pow(gamma)
    term = (wrong / reduced_threshold).pow(gamma)
    return term.masked_fill(torch.exp(-nll) < reduced_threshold, 1)


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    return loss.sum(0) if reduction == "batchwise_mean" else loss


def focal_loss_with_logits(
    output: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
    reduction: str = "mean",
    normalized: bool = False,
    reduced_threshold: float | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Return the binary focal loss of logits.

    >>> segloss_fast.compat.smp.focal_loss_with_logits(torch.zeros(1, 4), torch.ones(1, 4))
    tensor(0.0433)

    ``a (1 - q)^gamma nll``, nll the binary cross-entropy, q = exp(-nll) and a = alpha t +
    (1 - alpha) (1 - t), which None leaves out. :class:`FocalLoss` does it in one pass.

    Args:
        output: Logits of any shape.
        target: Of the same shape, in [0, 1].
        gamma: The exponent.
        alpha: The weight of the target 1.
        reduction: ``"mean"``, ``"sum"``, ``"batchwise_mean"`` (the sum over the first dimension);
            any other gives the loss of every voxel.
        normalized: Whether to divide by the sum of (1 - q)^gamma.
        reduced_threshold: Where given, (1 - q) / reduced_threshold has the exponent, and where q is
            below it 1 is the factor.
        eps: The least sum that ``normalized`` divides by.

    Raises:
        ValueError: If the shapes differ.
    """
    output, target = plain(output), plain(target)
    loss, term = focal_maps(widen(output), target, gamma, alpha, reduced_threshold)
    if normalized:
        loss = loss / term.sum().clamp_min(eps)
    return _reduced(loss, reduction).to(output.dtype)


def softmax_focal_loss_with_logits(
    output: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    reduction: str = "mean",
    normalized: bool = False,
    reduced_threshold: float | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """Return the focal loss of the softmax of logits.

    >>> smp = segloss_fast.compat.smp
    >>> smp.softmax_focal_loss_with_logits(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]]))
    tensor(0.1733)

    As :func:`focal_loss_with_logits` without alpha, with the cross-entropy of the softmax.

    Args:
        output: ``[B, C, *S]``.
        target: Class indices ``[B, *S]``, int64; -100 has a loss of 0.
        gamma: See :func:`focal_loss_with_logits`, and so are the others.
        reduction: See gamma.
        normalized: See gamma.
        reduced_threshold: See gamma.
        eps: See gamma.
    """
    nll = F.cross_entropy(widen(plain(output)), plain(target), reduction="none")
    term = _focal_term(nll, gamma, reduced_threshold)
    loss = term * nll
    if normalized:
        loss = loss / term.sum().clamp_min(eps)
    return _reduced(loss, reduction).to(output.dtype)


def soft_jaccard_score(
    output: Tensor,
    target: Tensor,
    smooth: float = 0.0,
    eps: float = 1e-7,
    dims: int | Sequence[int] | None = None,
) -> Tensor:
    """Return the soft Jaccard index: :func:`soft_tversky_score` with alpha = beta = 1.

    >>> segloss_fast.compat.smp.soft_jaccard_score(torch.full((4,), 0.5), torch.ones(4))
    tensor(0.5000)
    """
    return soft_tversky_score(output, target, 1.0, 1.0, smooth, eps, dims)


def soft_dice_score(
    output: Tensor,
    target: Tensor,
    smooth: float = 0.0,
    eps: float = 1e-7,
    dims: int | Sequence[int] | None = None,
) -> Tensor:
    """Return the soft Dice coefficient: :func:`soft_tversky_score` with alpha = beta = 0.5.

    >>> segloss_fast.compat.smp.soft_dice_score(torch.full((4,), 0.5), torch.ones(4))
    tensor(0.6667)
    """
    return soft_tversky_score(output, target, 0.5, 0.5, smooth, eps, dims)


def soft_tversky_score(
    output: Tensor,
    target: Tensor,
    alpha: float,
    beta: float,
    smooth: float = 0.0,
    eps: float = 1e-7,
    dims: int | Sequence[int] | None = None,
) -> Tensor:
    """Return the soft Tversky index of probabilities.

    >>> segloss_fast.compat.smp.soft_tversky_score(torch.full((4,), 0.5), torch.ones(4), 0.3, 0.7)
    tensor(0.5882)

    ``(tp + smooth) / max(tp + alpha fp + beta fn + smooth, eps)``: tp the sum of min(p, t), fp and
    fn what is left of p and of t. The losses of these classes do it in one pass.

    Args:
        output: Probabilities, of any shape.
        target: Of the same shape.
        alpha: The weight of fp.
        beta: The weight of fn.
        smooth: Added above and below.
        eps: The least that is divided by.
        dims: Dimensions that are summed over; None for all.

    Raises:
        AssertionError: If the shapes differ.
    """
    output, target = plain(output), plain(target)
    if output.shape != target.shape:
        raise AssertionError(
            f"target must have the shape of output, {list(output.shape)}, got {list(target.shape)}"
        )
    dtype, wide = torch.promote_types(output.dtype, target.dtype), row_dtype(output.device)
    over = [dims] if isinstance(dims, int) else list(range(output.dim()) if dims is None else dims)
    tp, pred, true = (
        x.sum(over, dtype=wide) for x in (torch.minimum(output, target), output, target)
    )
    size = tp + alpha * (pred - tp) + beta * (true - tp) + smooth
    return ((tp + smooth) / size.clamp_min(eps)).to(dtype)


def wing_loss(
    output: Tensor,
    target: Tensor,
    width: float = 5,
    curvature: float = 0.5,
    reduction: str = "mean",
) -> Tensor:
    """Return the wing loss of a regression: logarithmic near 0, linear from ``width`` on.

    >>> segloss_fast.compat.smp.wing_loss(torch.zeros(2), torch.tensor([1.0, 9.0]))
    tensor(10.7413)

    With d = abs(target - output), ``width log(1 + d / curvature)`` where d < width, else d minus
    what makes both meet. Source: Feng et al. 2018, https://arxiv.org/abs/1711.06753.

    Args:
        output: Of any shape.
        target: Of the same shape.
        width: Where the loss becomes linear.
        curvature: How wide its bottom is.
        reduction: ``"mean"``, ``"sum"``; any other gives the loss of every number.
    """
    far = (plain(target) - plain(output)).abs()
    step = width - width * math.log(1 + width / curvature)
    loss = torch.where(far < width, width * torch.log1p(far / curvature), far - step)
    return loss if reduction == "batchwise_mean" else _reduced(loss, reduction)


def label_smoothed_nll_loss(
    lprobs: Tensor,
    target: Tensor,
    epsilon: float,
    ignore_index: int | None = None,
    reduction: str = "mean",
    dim: int = -1,
) -> Tensor:
    """Return the cross-entropy of log-probabilities and smoothed labels.

    >>> lprobs = torch.tensor([[0.25, 0.75]]).log()
    >>> segloss_fast.compat.smp.label_smoothed_nll_loss(lprobs, torch.tensor([1]), 0.1)
    tensor(0.3426)

    ``-(1 - epsilon) log p_y - epsilon / C sum_c log p_c``, 0 where ignored, where the mean counts
    it. :class:`SoftCrossEntropyLoss` does it in one pass.

    Args:
        lprobs: Log-probabilities, the classes along ``dim``.
        target: Class indices, int64, without that dimension or with one of size 1.
        epsilon: Share of the target that is spread evenly over the classes.
        ignore_index: Label that does not count.
        reduction: ``"mean"``, ``"sum"``; any other gives the loss of every voxel, with a dimension
            of size 1 for the classes if ``ignore_index`` is given.
        dim: The dimension of the classes.
    """
    dtype, lprobs, target = lprobs.dtype, widen(plain(lprobs)), plain(target)
    if target.dim() == lprobs.dim() - 1:
        target = target.unsqueeze(dim)
    ignored = None if ignore_index is None else target == ignore_index
    labels = target if ignored is None else target.masked_fill(ignored, 0)
    nll, smooth = -lprobs.gather(dim, labels), -lprobs.sum(dim, keepdim=True)
    if ignored is None:
        nll, smooth = nll.squeeze(dim), smooth.squeeze(dim)
    else:
        nll, smooth = nll.masked_fill(ignored, 0), smooth.masked_fill(ignored, 0)
    if reduction in ("mean", "sum"):
        nll, smooth = _reduced(nll, reduction), _reduced(smooth, reduction)
    return ((1.0 - epsilon) * nll + epsilon / lprobs.shape[dim] * smooth).to(dtype)
