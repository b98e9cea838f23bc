"""The definition of structural_error, in plain differentiable PyTorch on any device."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from segloss_fast.ops._voxels.pieces import computed_again

MAX_WINDOW = 65  # that the kernels take (csrc/structural_error/kernels.h)


def forward(
    values: Tensor, target: Tensor, window_size: int, sigma: float, constant: float, first: int
) -> Tensor:
    """Return the error of every voxel, of the values' shape and dtype.

    One class at a time, so that where a gradient follows, which computes the windows again, the
    maps in between are those of one class.

    Args:
        values: ``[B, C, *S]``, float32 or float64.
        target: ``[B, C, *S]`` of any real dtype.
        window_size: Odd number of voxels along each axis.
        sigma: Of the Gaussian window, in voxels.
        constant: c of the formula.
        first: Errors of classes below it are 0.
    """
    if values.numel() == 0:
        return values.clone()
    rows = []
    for c in range(values.shape[1]):
        p = values[:, c : c + 1]
        if c < first:
            rows.append(torch.zeros_like(p))
            continue
        options = target[:, c : c + 1], window_size, sigma, constant
        if torch.is_grad_enabled() and values.requires_grad:
            rows.append(computed_again(_error, p, *options))
        else:
            rows.append(_error(p, *options))
    return torch.cat(rows, 1)


def _error(
    values: Tensor, target: Tensor, window_size: int, sigma: float, constant: float
) -> Tensor:
    window = _gaussian(window_size, sigma)
    t = _normalized(target.to(values.dtype), window, constant)
    return (t - _normalized(values, window, constant)).abs()


def _gaussian(window_size: int, sigma: float) -> list[float]:
    """Return the weights along an axis, which add up to 1."""
    radius = window_size // 2
    weights = [math.exp(-0.5 * d * d / (sigma * sigma)) for d in range(-radius, radius + 1)]
    return [weight / math.fsum(weights) for weight in weights]


def _normalized(x: Tensor, window: list[float], constant: float) -> Tensor:
    """Return (x - mean + c) / (deviation + c) over the windows of ``[B, 1, *S]``."""
    mean, variance = x, torch.zeros_like(x)
    for axis in range(2, x.dim()):
        # Axis by axis: a mean of squares less a squared mean would lose small variances.
        shifted, spread = _shifts(mean, axis, len(window)), _shifts(variance, axis, len(window))
        own = mean
        for g, m in zip(window, shifted, strict=True):
            mean = mean + g * (m - own)  # equal values have exactly their mean
        pairs = zip(window, shifted, spread, strict=True)
        variance = torch.stack([g * (v + (m - mean).square()) for g, m, v in pairs]).sum(0)
    some = variance > 0  # the derivative of the root is taken as 0 where it has none
    deviation = torch.where(some, variance, 1).sqrt() * some
    return (x - mean + constant) / (deviation + constant)


def _shifts(x: Tensor, axis: int, count: int) -> list[Tensor]:
    """Return x with each offset along an axis in its place, 0 from beyond the border."""
    around = [0, 0] * (x.dim() - 1 - axis) + [count // 2] * 2
    padded = F.pad(x, around)
    return [padded.narrow(axis, d, x.shape[axis]) for d in range(count)]
