"""clDice and structural similarity in plain PyTorch, from the papers: what ours are timed against.

Each takes an input ``[B, C, *S]`` and class indices ``[B, 1, *S]``; the classes compete (softmax).
The default options of ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.cases.eager_losses import one_hot_map

_POOLING = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


def soft_cl_dice(input: Tensor, target: Tensor, iterations: int = 3) -> Tensor:
    """Shit 2021; with MONAI's smoothing."""
    p, t = input.softmax(1), one_hot_map(input, target)
    s_p, s_t = _skeleton(p, iterations), _skeleton(t, iterations)
    axes = list(range(1, p.dim()))
    precision = ((s_p * t).sum(axes) + 1) / (s_p.sum(axes) + 1)
    sensitivity = ((s_t * p).sum(axes) + 1) / (s_t.sum(axes) + 1)
    return (1 - 2 * precision * sensitivity / (precision + sensitivity + 1e-4)).mean()


def soft_dice_cl_dice(input: Tensor, target: Tensor) -> Tensor:
    """Shit 2021: half Dice, half clDice."""
    p, t = input.softmax(1), one_hot_map(input, target)
    axes = list(range(2, p.dim()))
    dice = (2 * (p * t).sum(axes) + 1) / (p.sum(axes) + t.sum(axes) + 1)
    return 0.5 * (1 - dice).mean() + 0.5 * soft_cl_dice(input, target)


def structural_similarity(input: Tensor, target: Tensor) -> Tensor:
    """Zhao 2019, window of 3, sigma 1.5; means of values and squares by padded convolutions."""
    logs = input.log_softmax(1)
    p, t = logs.exp(), one_hot_map(input, target)
    line = input.new_tensor([math.exp(-(d**2) / 4.5) for d in (-1, 0, 1)])
    window = line
    for _ in range(input.dim() - 3):
        window = window[..., None] * line
    window = (window / window.sum())[None, None]
    error = (_normalized(t, window) - _normalized(p, window)).abs()
    largest = error.detach().flatten(1).amax(1).view(-1, *[1] * (input.dim() - 1))
    hard = error > 0.1 * largest
    loss = -t * logs
    structural = (hard * error * loss).sum() / hard.sum()
    return 0.5 * loss.sum(1).mean() + 0.5 * structural


def _normalized(x: Tensor, window: Tensor) -> Tensor:
    convolve = _CONVOLUTIONS[x.dim() - 3]
    flat = x.flatten(0, 1)[:, None]
    mean = convolve(flat, window, padding=1)
    variance = convolve(flat.square(), window, padding=1) - mean.square()
    some = variance > 0  # the root has no derivative at 0
    deviation = torch.where(some, variance, 1).sqrt() * some
    return ((flat - mean + 0.01) / (deviation + 0.01)).view_as(x)


def _skeleton(x: Tensor, iterations: int) -> Tensor:
    skeleton = torch.zeros_like(x)
    for level in range(iterations + 1):
        eroded = _erode(x)
        opened = _POOLING[x.dim() - 3](eroded, 3, 1, 1)
        delta = (x - opened).relu()
        skeleton = skeleton + (delta - skeleton * delta).relu() if level else delta
        x = eroded
    return skeleton


def _erode(x: Tensor) -> Tensor:
    axes = x.dim() - 2
    along = []
    for axis in range(axes):
        size = [3 if other == axis else 1 for other in range(axes)]
        along.append(-_POOLING[axes - 1](-x, size, 1, [side // 2 for side in size]))
    minimum = along[0]
    for other in along[1:]:
        minimum = torch.minimum(minimum, other)
    return minimum


EAGER_STRUCTURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "SoftClDice": soft_cl_dice,
    "SoftDiceClDice": soft_dice_cl_dice,
    "StructuralSimilarity": structural_similarity,
}
