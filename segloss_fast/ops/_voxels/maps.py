"""Maps of probabilities and their logarithms in plain differentiable PyTorch, and their sums."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast._native import _C

# The order is the numbering of the native kernels (csrc/voxels/view.h).
ACTIVATIONS = ("softmax", "sigmoid", "probabilities")
LOG_MIN = -100.0  # torch's binary cross-entropy clamps log 0 to this,
PROBABILITY_MIN = 1e-12  # and a denominator of its gradient to this
BLOCK = 512  # voxels whose values are added up in float32
ONE_THREAD = 2**16  # values that are looked at sooner than torch's operators are called


def row_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on devices that have none."""
    return torch.float32 if device.type == "mps" else torch.float64


def activate(x: Tensor, activation: str) -> Tensor:
    """Return the probabilities."""
    if activation == "softmax":
        return x.softmax(1)
    return x.sigmoid() if activation == "sigmoid" else x


def finite_or_masked(value: Tensor, factor: Tensor) -> Tensor:
    """Return the value, or 0 where it is not finite and the factor is 0.

    So a class that an infinite logit masks has no share in the loss.
    """
    return torch.where((factor == 0) & ~value.isfinite(), 0, value)


def power(base: Tensor, gamma: float) -> Tensor:
    """Raise to a power with derivative 0 at 0, where that of a power below one is infinite.

    Below 0, where rounding or smoothing may take a base, the power is that of 0; of NaN it is NaN.
    """
    if gamma == 2:
        return base.clamp_min(0).square()
    positive = base > 0
    at_zero = torch.where(base.isnan(), base, 1.0 if gamma == 0 else 0.0)
    return torch.where(positive, torch.where(positive, base, 1).pow(gamma), at_zero)


def log_one_minus_softmax(x: Tensor) -> Tensor:
    """Return log(1 - p), from the other classes where p may be near 1."""
    top = torch.zeros_like(x, dtype=torch.bool).scatter_(1, x.argmax(1, keepdim=True), True)
    others = x.masked_fill(top, -torch.inf).logsumexp(1, keepdim=True)
    at_most_half = torch.where(top, 0, x.softmax(1))
    return torch.where(top, others - x.logsumexp(1, keepdim=True), torch.log1p(-at_most_half))


def clamped_log(p: Tensor) -> Tensor:
    """Log clamped to -100, with the derivative 1 / max(p, 1e-12), and its derivatives."""
    exact, small = p.detach(), p < PROBABILITY_MIN
    value = torch.where(exact == 0, LOG_MIN, exact.log().clamp_min(LOG_MIN))
    straight = value + (p - exact) / PROBABILITY_MIN
    return torch.where(small, straight, p.masked_fill(small, 1).log())


def clamped_log_one_minus(p: Tensor) -> Tensor:
    """The same of 1 - p."""
    exact, large = p.detach(), 1 - p < PROBABILITY_MIN
    value = torch.where(exact == 1, LOG_MIN, torch.log1p(-exact).clamp_min(LOG_MIN))
    straight = value - (p - exact) / PROBABILITY_MIN
    return torch.where(large, straight, torch.log1p(-p.masked_fill(large, 0)))


def in_blocks(tensor: Tensor, axis: int) -> Tensor:
    """Return a tensor with its voxels, that begin at an axis, as blocks where they fill some.

    Sums over blocks then have derivatives that nothing has to reshape, which would mean to write
    them. A view, but of layouts whose voxels do not follow each other.
    """
    flat = tensor.flatten(axis)
    if torch.compiler.is_compiling() or flat.shape[axis] == 0 or flat.shape[axis] % BLOCK:
        return flat  # compilers make their own of it, for any number of voxels
    blocks: Tensor = flat.unflatten(axis, (-1, BLOCK))
    return blocks


def sum_voxels(voxels: Tensor) -> Tensor:
    """Add up ``[B, C, *S]`` to ``[B, C]``, float64.

    Float32 is added up in float32 within blocks, whose sums are then added in float64: on the CPU
    float64 throughout would take many times as long.
    """
    wide = row_dtype(voxels.device)
    if torch.compiler.is_compiling() or voxels.dtype != torch.float32:
        return voxels.flatten(2).sum(2, dtype=wide)
    if voxels.shape[3:] == (BLOCK,):
        return voxels.sum(3).sum(2, dtype=wide)
    flat = voxels.flatten(2)
    rest = flat.shape[2] % BLOCK
    if flat.shape[2] < BLOCK:
        return flat.sum(2, dtype=wide)
    if rest:  # split, because the derivative of slices would write zeros
        blocks, last = torch.split(flat, [flat.shape[2] - rest, rest], 2)
        return _sum_blocks(blocks).sum(2, dtype=wide) + last.sum(2, dtype=wide)
    return _sum_blocks(flat).sum(2, dtype=wide)


def _sum_blocks(flat: Tensor) -> Tensor:
    blocks: Tensor = flat.unflatten(2, (-1, BLOCK))
    return blocks.sum(3)


def is_within(probabilities: Tensor, least: float) -> bool:
    """Whether values are seen to lie in [least, 1 - least]; not if there are none."""
    if probabilities.numel() == 0:
        return False
    if _C is not None and probabilities.numel() <= ONE_THREAD:
        found = _C.all_within(probabilities, least, 1 - least)
        if found is not None:
            return bool(found)
    lowest, highest = probabilities.aminmax()
    return float(lowest) >= least and float(highest) <= 1 - least
