"""Sums over voxels in plain PyTorch, in blocks of float32."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 512  # voxels whose values are added up in float32


def row_dtype(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on devices that have none."""
    return torch.float32 if device.type == "mps" else torch.float64


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
