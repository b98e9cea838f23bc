"""Losses in plain PyTorch, as users write them from the papers: what ours are timed against.

Each takes an input ``[B, C, *S]`` and class indices ``[B, 1, *S]``. The classes compete (softmax),
but for the binary cross-entropies (sigmoid). The default options of ours; smoothing 1e-5.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    log_softmax,
    one_hot,
)

SMOOTH = 1e-5


def one_hot_map(input: Tensor, target: Tensor) -> Tensor:
    """Return the target as ``[B, C, *S]``, of the input's dtype."""
    return one_hot(target[:, 0].long(), input.shape[1]).movedim(-1, 1).to(input.dtype)


def _axes(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


def _dice(p: Tensor, t: Tensor) -> Tensor:
    """Return Dice per item and class."""
    axes = _axes(p)
    return (2 * (p * t).sum(axes) + SMOOTH) / (p.sum(axes) + t.sum(axes) + SMOOTH)


def _tversky(p: Tensor, t: Tensor, alpha: float, beta: float) -> Tensor:
    axes = _axes(p)
    tp, fp, fn = (p * t).sum(axes), (p * (1 - t)).sum(axes), ((1 - p) * t).sum(axes)
    return (tp + SMOOTH) / (tp + alpha * fp + beta * fn + SMOOTH)


def focal_tversky(input: Tensor, target: Tensor) -> Tensor:
    """Abraham and Khan 2019."""
    index = _tversky(input.softmax(1), one_hot_map(input, target), 0.3, 0.7)
    return ((1 - index) ** 0.75).mean()


def log_cosh_dice(input: Tensor, target: Tensor) -> Tensor:
    """Jadon 2020."""
    dice = _dice(input.softmax(1), one_hot_map(input, target))
    return torch.log(torch.cosh(1 - dice)).mean()


def sensitivity_specificity(input: Tensor, target: Tensor) -> Tensor:
    """Brosch 2015."""
    p, t = input.softmax(1), one_hot_map(input, target)
    axes = _axes(p)
    error = (t - p) ** 2
    sensitivity = (error * t).sum(axes) / (t.sum(axes) + SMOOTH)
    specificity = (error * (1 - t)).sum(axes) / ((1 - t).sum(axes) + SMOOTH)
    return (0.05 * sensitivity + 0.95 * specificity).mean()


def generalized_dice(input: Tensor, target: Tensor) -> Tensor:
    """Sudre 2017."""
    p, t = input.softmax(1), one_hot_map(input, target)
    axes = _axes(p)
    weight = 1 / t.sum(axes).clamp_min(1) ** 2
    weight = weight / weight.sum(1, keepdim=True)
    numerator = 2 * (weight * (p * t).sum(axes)).sum(1) + SMOOTH
    denominator = (weight * (p.sum(axes) + t.sum(axes))).sum(1) + SMOOTH
    return (1 - numerator / denominator).mean()


def generalized_dice_focal(input: Tensor, target: Tensor) -> Tensor:
    """Sudre 2017 and Lin 2017."""
    log_p, t = log_softmax(input, 1), one_hot_map(input, target)
    focal = -(t * (1 - log_p.exp()) ** 2 * log_p).sum(1).mean()
    return generalized_dice(input, target) + focal


def mcc(input: Tensor, target: Tensor) -> Tensor:
    """Abhishek and Hamarneh 2021."""
    p, t = input.softmax(1), one_hot_map(input, target)
    axes = _axes(p)
    tp, tn = (p * t).sum(axes), ((1 - p) * (1 - t)).sum(axes)
    fp, fn = (p * (1 - t)).sum(axes), ((1 - p) * t).sum(axes)
    root = torch.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn) + SMOOTH)
    return (1 - (tp * tn - fp * fn + SMOOTH) / root).mean()


def balanced_ce(input: Tensor, target: Tensor) -> Tensor:
    """Xie and Tu 2015."""
    t = one_hot_map(input, target)
    beta = 1 - t.mean(_axes(t), keepdim=True)
    weight = beta * t + (1 - beta) * (1 - t)
    return binary_cross_entropy_with_logits(input, t, weight)


def combo(input: Tensor, target: Tensor) -> Tensor:
    """Taghanaki 2018."""
    t = one_hot_map(input, target)
    cross_entropy = binary_cross_entropy_with_logits(input, t) / 2
    return 0.5 * cross_entropy - 0.5 * _dice(input.sigmoid(), t).mean()


def exp_log(input: Tensor, target: Tensor) -> Tensor:
    """Wong 2018."""
    log_p, t = log_softmax(input, 1), one_hot_map(input, target)
    dice = (-torch.log(_dice(log_p.exp(), t))) ** 0.3
    weight = (1 / t.mean(_axes(t), keepdim=True)) ** 0.5
    nll = -(t * log_p).sum(1)
    return 0.8 * dice.mean() + 0.2 * ((weight * t).sum(1) * nll**0.3).mean()


def unified_focal(input: Tensor, target: Tensor) -> Tensor:
    """Yeung 2022, asymmetric."""
    log_p, t = log_softmax(input, 1), one_hot_map(input, target)
    p = log_p.exp()
    nll = -t * log_p
    background = 0.4 * (1 - p[:, 0]) ** 0.5 * nll[:, 0]
    focal = background.mean() + 0.6 * nll[:, 1:].sum(1).mean()
    loss = 1 - _tversky(p, t, 0.4, 0.6)
    tversky = torch.cat([loss[:, :1], loss[:, 1:] ** 0.5], 1).mean()
    return 0.5 * focal + 0.5 * tversky


def _maps(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities and target ``[B, C, *S]``; one class has a sigmoid."""
    if input.shape[1] == 1:
        return input.sigmoid(), target.to(input.dtype)
    return input.softmax(1), one_hot_map(input, target)


def dice(input: Tensor, target: Tensor) -> Tensor:
    """Milletari 2016."""
    return 1 - _dice(*_maps(input, target)).mean()


def dice_ce(input: Tensor, target: Tensor) -> Tensor:
    """Dice and torch's cross-entropy."""
    if input.shape[1] == 1:
        entropy = binary_cross_entropy_with_logits(input, target.to(input.dtype))
    else:
        entropy = cross_entropy(input, target[:, 0].long())
    return dice(input, target) + entropy


def dice_focal(input: Tensor, target: Tensor) -> Tensor:
    """Dice and the focal loss of Lin 2017 with a sigmoid, as MONAI's."""
    _, t = _maps(input, target)
    entropy = binary_cross_entropy_with_logits(input, t, reduction="none")
    return dice(input, target) + ((1 - torch.exp(-entropy)) ** 2 * entropy).mean()


def tversky(input: Tensor, target: Tensor) -> Tensor:
    """Salehi 2017."""
    return 1 - _tversky(*_maps(input, target), 0.5, 0.5).mean()


# Of the losses that MONAI has, for machines that lack it.
STAND_INS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Dice": dice,
    "DiceCE": dice_ce,
    "DiceFocal": dice_focal,
    "Tversky": tversky,
}
EAGER_FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "FocalTversky": focal_tversky,
    "LogCoshDice": log_cosh_dice,
    "SensitivitySpecificity": sensitivity_specificity,
    "GeneralizedDice": generalized_dice,
    "GeneralizedDiceFocal": generalized_dice_focal,
    "MCC": mcc,
    "BalancedCE": balanced_ce,
    "Combo": combo,
    "ExpLog": exp_log,
    "UnifiedFocal": unified_focal,
}
