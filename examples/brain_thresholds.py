"""The demo's baseline: the intensity thresholds with the best Dice, found by exhaustive search."""

from __future__ import annotations

import torch
from torch import Tensor

from examples.brain_data import CLASSES

BINS = 512


def fit_thresholds(image: Tensor, labels: Tensor) -> Tensor:
    """Find the thresholds that separate background, other brain, gray and white matter best.

    The upper two maximise Dice of gray plus white matter over all pairs of ``BINS`` candidates; the
    lowest then maximises Dice of background plus other brain. Classes are in the order of their
    intensity, which for a T1-weighted image is that of their indices.

    Args:
        image: Intensities of any shape, at least 0.
        labels: Class indices of the same shape.

    Returns:
        ``[3]`` float32, ascending.
    """
    top = float(image.max())
    edges = torch.linspace(0, top, BINS + 1)
    background, other, gray, white = _band_dice(image, labels, top)
    both = gray + white[:, -1]  # [lower edge of gray, lower edge of white]
    low, high = divmod(int(both.argmax()), BINS + 1)
    lowest = int((background[0] + other[:, low]).argmax())
    return edges[[lowest, low, high]]


def _band_dice(image: Tensor, labels: Tensor, top: float) -> Tensor:
    """Return ``[4, BINS + 1, BINS + 1]``: Dice of each class if it is all between two edges."""
    counts = torch.stack(
        [torch.histc(image[labels == index], BINS, 0, top) for index in range(len(CLASSES))]
    ).double()
    below = torch.nn.functional.pad(counts.cumsum(dim=1), (1, 0))  # [4, BINS + 1]
    hits = below[:, None, :] - below[:, :, None]
    dice = 2 * hits / (hits.sum(dim=0) + below[:, -1, None, None])
    return dice.triu()  # an upper edge below the lower one takes no voxel


def apply_thresholds(image: Tensor, thresholds: Tensor) -> Tensor:
    """Return the class indices of an image, int64.

    Args:
        image: Intensities of any shape.
        thresholds: As :func:`fit_thresholds` returns them.
    """
    return torch.bucketize(image.contiguous(), thresholds)
