"""Masks of one class, for the tests of every implementation of the primitives that read targets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = 255
# Of values and of labels, with what an error shows.
BAD_VALUES = ((255.0, "255"), (math.nan, "nan"), (-1.0, "-1"), (1.0078125, "1.0078125"))
BAD_LABELS = ((torch.uint8, 255), (torch.int8, -1), (torch.int16, 2), (torch.int64, 2**40 + 1))


@dataclass(frozen=True)
class Mask:
    """A problem of one class.

    Attributes:
        input: Logits ``[B, 1, *S]``, NaN where ignored.
        clean: The same without NaN.
        target: Values ``[B, 1, *S]``, IGNORED where ignored.
        values: The same with 0 there.
        kept: Which voxels count, bool ``[B, 1, *S]``.
    """

    input: Tensor
    clean: Tensor
    target: Tensor
    values: Tensor
    kept: Tensor


def soft_mask(size: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> Mask:
    """Return a mask of values from 0 to 1, the two among them, a third of them ignored.

    All floating-point dtypes hold them.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 1, *size)
    x = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    values = torch.randint(0, 17, shape, generator=generator).double() / 16
    kept = torch.rand(shape, generator=generator) > 0.3
    target = torch.where(kept, values, IGNORED).to(dtype)
    return Mask(torch.where(kept, x, torch.nan), x, target, torch.where(kept, values, 0), kept)


def turned(tensor: Tensor) -> Tensor:
    """Return a tensor with its last two dimensions exchanged in memory."""
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
