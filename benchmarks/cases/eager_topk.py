"""TopK and generalised Wasserstein Dice in plain PyTorch: what ours are timed against.

As those of eager_losses.py: an input ``[B, C, *S]``, class indices ``[B, 1, *S]``, softmax, default
options, smoothing 1e-5.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.cases.eager_losses import one_hot_map

SMOOTH = 1e-5


def topk(input: Tensor, target: Tensor) -> Tensor:
    """Wu 2016, as nnU-Net has it."""
    loss = cross_entropy(input, target[:, 0].long(), reduction="none").flatten()
    return torch.topk(loss, max(1, loss.numel() // 10), sorted=False).values.mean()


def dice_topk(input: Tensor, target: Tensor) -> Tensor:
    """Dice and TopK, added up."""
    p = input.softmax(1)
    t = one_hot_map(input, target)
    axes = list(range(2, p.dim()))
    dice = (2 * (p * t).sum(axes) + SMOOTH) / (p.sum(axes) + t.sum(axes) + SMOOTH)
    return 1 - dice.mean() + topk(input, target)


def wasserstein_dice(input: Tensor, target: Tensor) -> Tensor:
    """Fidon 2017, with the distance 1 between any two classes."""
    classes = input.shape[1]
    labels = target[:, 0].long()
    distances = (1 - torch.eye(classes, device=input.device)).to(input.dtype)
    own = distances[labels].movedim(-1, 1)  # [B, C, *S], from each voxel's class to every other
    error = (own * input.softmax(1)).sum(1).flatten(1)
    true = ((labels != 0).flatten(1) * (1 - error)).sum(1)
    return (1 - (2 * true + SMOOTH) / (2 * true + error.sum(1) + SMOOTH)).mean()


EAGER_TOPK: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "TopK": topk,
    "DiceTopK": dice_topk,
    "WassersteinDice": wasserstein_dice,
}
