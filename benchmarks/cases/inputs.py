"""Inputs of the benchmarks: label fields and logits like those of a segmentation network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]
# Called with the inputs and the targets: one each, or several levels of different size.
LossFunction = Callable[[Tensors, Tensors], Tensor]


def blob_labels(shape: Sequence[int], seed: int = 0, foreground: float = 0.5) -> Tensor:
    """Return label fields that look like segmentations: smooth blobs, the rest background.

    Args:
        shape: ``[B, C, *S]`` of the input that the labels are for, S of two or three dimensions.
        seed: Of the random numbers.
        foreground: Share of the voxels with labels above 0.

    Returns:
        ``[B, 1, *S]`` int64 in [0, C); in [0, 2) for C = 1.
    """
    batch, classes, *size = shape
    generator = torch.Generator().manual_seed(seed)
    coarse = [batch, 1, *(max(2, side // 8) for side in size)]
    mode = "trilinear" if len(size) == 3 else "bilinear"
    highest = torch.full([batch, 1, *size], -math.inf)
    labels = torch.zeros([batch, 1, *size], dtype=torch.int64)
    for label in range(1, max(classes, 2)):
        noise = torch.randn(coarse, generator=generator)
        field = torch.nn.functional.interpolate(noise, size=size, mode=mode)
        labels.masked_fill_(field > highest, label)
        highest = torch.maximum(highest, field)
    background = int((1 - foreground) * (highest.numel() - 1)) + 1
    return labels.masked_fill_(highest < highest.flatten().kthvalue(background).values, 0)


def logits(labels: Tensor, classes: int, kind: str, seed: int = 1) -> Tensor:
    """Return float32 logits for the labels.

    Args:
        labels: ``[B, 1, *S]`` int64.
        classes: Number of channels.
        kind: ``"random"``: standard normal. ``"saturated"``: as of a trained network, sure of its
            class and wrong along the borders, because it predicts the labels shifted by a voxel.
        seed: Of the random numbers.

    Returns:
        ``[B, C, *S]``.

    Raises:
        ValueError: If the kind is unknown.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = [labels.shape[0], classes, *labels.shape[2:]]
    x = torch.randn(shape, generator=generator)
    if kind == "random":
        return x
    if kind != "saturated":
        raise ValueError(f"kind must be 'random' or 'saturated', got {kind!r}")
    shifted = labels.roll([1] * (labels.dim() - 2), dims=list(range(2, labels.dim())))
    if classes == 1:
        return x + 12 * (2 * shifted.float() - 1)
    return 2 * x.scatter_add_(1, shifted, torch.full_like(x, 6.0))
