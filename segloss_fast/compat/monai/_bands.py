"""Convolutions along an axis as products with banded matrices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LONG = 512  # voxels of an axis that one matrix multiplies


def convolved(x: Tensor, axis: int, kernel: Tensor) -> Tensor:
    """Return the convolution along an axis of ``[B, C, *S]``, with zeros around.

    On a CPU it takes a fraction of the time of torch's convolution of each channel.

    Args:
        x: Any strides.
        axis: At least 2.
        kernel: An odd number of weights, symmetric, of the dtype of x.
    """
    length, after = x.shape[axis], x.shape[axis + 1 :].numel()
    last = after == 1
    rows = x.reshape(-1, length) if last else x.flatten(axis + 1).flatten(0, axis - 1)
    tail = len(kernel) // 2
    padded = functional.pad(kernel, (1, 1))
    parts = []
    for start in range(0, length, LONG):
        stop = min(start + LONG, length)
        low, high = max(start - tail, 0), min(stop + tail, length)
        to = torch.arange(start, stop, device=x.device)[:, None]
        offset = torch.arange(low, high, device=x.device) - to
        matrix = padded[(offset + tail + 1).clamp_(0, 2 * tail + 2)]
        part = rows[:, low:high]
        parts.append(part @ matrix.T if last else matrix @ part)
    return (parts[0] if len(parts) == 1 else torch.cat(parts, 1)).view(x.shape)
