"""soft_skeleton by Triton kernels: groups of planes, a plane being an item's class.

Planes go through all launches together, as many as fit in the scratch memory; where one alone does
not fit, one after another. Forward keeps four maps of a group, 16 bytes per voxel in float32;
backward k + 2 maps with their codes, 6 (k + 2) bytes (10 (k + 2) in float64), for k iterations. Of
a group there are k + 2 launches in forward and 2 k + 5 in backward.

Sizes, strides and numbers are runtime arguments: a new kernel is compiled only for another dtype,
rank or alignment, and for a first or last level.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops._triton.launch import Launch, device_of
from segloss_fast.ops._triton.views import without_bools
from segloss_fast.ops.soft_skeleton import triton_backward, triton_kernels

BLOCK = 128  # voxels of a program, one per thread
PROGRAMS = 2048  # fill a large GPU; above that, programs go through more slices
MOST_SLICES = 32
# Scratch memory of a group: twice the values' memory, within these bounds. The upper one fits in
# the cache of a large GPU; the lower one spares small problems launches.
LEAST_SCRATCH, MOST_SCRATCH = 4 << 20, 32 << 20
ALIGNMENT = 16  # of maps, in elements: no kernels for unaligned ones


@dataclass(frozen=True)
class Group:
    """Planes that go through the launches together.

    Attributes:
        start: The first, counted from class ``first`` of the first item on.
        count: How many there are.
        channels: Classes of an item that have planes.
        first: The first such class.
        rank: Number of axes.
        sizes: Slices, rows of a slice, voxels of a row; an image's rows are its slices.
        iterations: k.
    """

    start: int
    count: int
    channels: int
    first: int
    rank: int
    sizes: tuple[int, int, int]
    iterations: int

    @property
    def room(self) -> int:
        """Elements of a map."""
        return -(-self.count * math.prod(self.sizes) // ALIGNMENT) * ALIGNMENT

    def planes(self) -> dict[str, int]:
        """Return which planes these are."""
        return {"start": self.start, "channels": self.channels, "first": self.first}

    def space(self) -> dict[str, int]:
        """Return the sizes of a plane."""
        return dict(zip(("slices", "rows", "width"), self.sizes, strict=True))

    def view(self, name: str, tensor: Tensor) -> dict[str, Any]:
        """Describe ``[B, C, *S]`` as three-dimensional."""
        strides = tensor.stride()
        inner = {1: (0, 0), 2: (strides[2], 0), 3: strides[2:4]}[self.rank]
        names = triton_kernels.STRIDES
        steps = (*strides[:2], *inner, strides[-1])
        return {name: tensor, **dict(zip(names, steps, strict=True))}

    def launch(self, kernel: Any, arguments: dict[str, Any], **constants: Any) -> Launch:
        """Return a launch whose programs go through slices."""
        slices = self.sizes[0]
        blocks = -(-self.sizes[1] * self.sizes[2] // BLOCK)
        depth = min(max(self.count * blocks * slices // PROGRAMS, 2), MOST_SLICES)
        chunks = -(-slices // depth)
        cut = {"blocks": blocks, "chunks": chunks, "depth": depth}
        arguments = {**arguments, **self.space(), **self.planes(), **cut}
        constants = {**constants, "RANK": self.rank, "BLOCK": BLOCK}
        # Rounded as torch rounds, with no product and sum in one.
        return Launch(kernel, (self.count * chunks * blocks,), arguments, constants, fusion=False)


def groups(values: Tensor, iterations: int, first: int, bytes_per_voxel: int) -> list[Group]:
    """Return all planes of classes from first on.

    Args:
        values: ``[B, C, *S]``, not empty.
        iterations: Number of erosions after the first.
        first: As for the reference.
        bytes_per_voxel: Scratch memory.
    """
    sizes = values.shape[2:]
    inner = {1: (1, 1), 2: (sizes[0], 1), 3: tuple(sizes[:2])}[len(sizes)]
    channels = values.shape[1] - first
    planes = values.shape[0] * channels
    bound = min(max(2 * values.numel() * values.element_size(), LEAST_SCRATCH), MOST_SCRATCH)
    together = max(1, bound // (bytes_per_voxel * sizes.numel()))
    return [
        Group(
            start,
            min(together, planes - start),
            channels,
            first,
            len(sizes),
            (inner[0], inner[1], sizes[-1]),
            iterations,
        )
        for start in range(0, planes, together)
    ]


def forward(values: Tensor, iterations: int, first: int) -> Tensor:
    """Return the skeletons; the arguments are those of the reference."""
    out, k, first = _prepare(values, iterations, first)
    if values.numel() == 0 or first == values.shape[1]:
        return out
    x = without_bools(values)
    to = out.view(torch.uint8) if out.dtype == torch.bool else out
    found = groups(x, k, first, 4 * x.element_size())
    with device_of(values):
        maps = x.new_empty((4, found[0].room))
        for group in found:
            for launch in skeletons(group, x, maps, to):
                launch()
    return out


def backward(grad: Tensor, values: Tensor, iterations: int, first: int) -> Tensor:
    """Return the gradient of the values, given that of the skeletons."""
    if not values.is_floating_point():
        raise TypeError("soft_skeleton: masks have no gradient")
    if grad.shape != values.shape or grad.dtype != values.dtype:
        raise ValueError("soft_skeleton: wrong shape or dtype of grad")
    out, k, first = _prepare(values, iterations, first)
    if values.numel() == 0 or first == values.shape[1]:
        return out
    found = groups(values, k, first, (k + 2) * (values.element_size() + 2))
    with device_of(values):
        maps = values.new_empty((k + 2, found[0].room))
        codes = values.new_empty((k + 2, found[0].room), dtype=torch.int16)
        for group in found:
            for launch in gradients(group, grad, values, maps, codes, out):
                launch()
    return out


def _prepare(values: Tensor, iterations: int, first: int) -> tuple[Tensor, int, int]:
    """Return the result, 0 in classes below first; the iterations and first class that matter."""
    if values.dtype not in (torch.float32, torch.float64, torch.bool):
        raise TypeError("soft_skeleton: unsupported dtype")
    out = torch.empty_like(values)
    first = min(first, values.shape[1])
    if first > 0:
        out[:, :first].zero_()
    # After so many erosions the minimum has reached every voxel: nothing changes any more.
    return out, min(iterations, sum(values.shape[2:])), first


def skeletons(group: Group, values: Tensor, maps: Tensor, out: Tensor) -> Iterator[Launch]:
    """Return what writes the skeletons of a group into ``out``.

    Args:
        group: Of which planes.
        values: ``[B, C, *S]``.
        maps: Scratch memory, four maps: three levels of erosion, and the skeleton.
        out: ``[B, C, *S]``.
    """
    k = group.iterations
    yield _erosion(group, values, maps[0], maps[1], None)
    for j in range(k + 1):
        first, last = j == 0, j == k
        arguments = {
            **{"own": maps[j % 3], "img": maps[(j + 1) % 3], "after": maps[(j + 2) % 3]},
            **{"known": maps[3], "codes": maps[3], **group.view("out", out)},
        }
        flags = {"CODES": False, "FIRST": first, "LAST": last}
        yield group.launch(triton_kernels.advance, arguments, **flags)


def gradients(
    group: Group, grad: Tensor, values: Tensor, maps: Tensor, codes: Tensor, out: Tensor
) -> Iterator[Launch]:
    """Return what writes the gradient of a group into ``out``.

    Args:
        group: Of which planes.
        grad: Of the skeletons, ``[B, C, *S]``.
        values: ``[B, C, *S]``.
        maps: Scratch memory, k + 2 maps: img_j, then delta_j, its gradient, and that of img_j.
        codes: Scratch memory, k + 2 maps of 16 bits.
        out: ``[B, C, *S]``.
    """
    k = group.iterations
    yield _erosion(group, values, maps[0], maps[1], codes[0])
    for j in range(k + 1):
        arguments = {
            **{"own": maps[j], "img": maps[j + 1], "after": maps[min(j + 2, k + 1)]},
            **{"known": maps[j], "codes": codes[j + 1], **group.view("out", out)},
        }
        flags = {"CODES": True, "FIRST": False, "LAST": j == k}
        yield group.launch(triton_kernels.advance, arguments, **flags)
    yield _derivative(group, grad, maps)
    for j in range(k + 1, -1, -1):
        arguments = {
            **{"opened": maps[max(j - 1, 0)], "eroded": maps[min(j + 1, k + 1)]},
            **{"own": maps[j], "codes": codes[j], **group.view("out", out)},
        }
        flags = {"OPENED": j > 0, "ERODED": j <= k}
        yield group.launch(triton_backward.collect, arguments, **flags)


def _erosion(
    group: Group, values: Tensor, copy: Tensor, after: Tensor, codes: Tensor | None
) -> Launch:
    """Return the first launch, which alone reads the values; without codes it records none."""
    arguments = {"copy": copy, "after": after, "codes": copy if codes is None else codes}
    arguments |= group.view("x", values)
    return group.launch(triton_kernels.erode, arguments, CODES=codes is not None)


def _derivative(group: Group, grad: Tensor, maps: Tensor) -> Launch:
    """Return what replaces the maps of delta by those of their gradients."""
    blocks = -(-math.prod(group.sizes) // BLOCK)
    arguments = {**group.view("grad", grad), **group.planes(), **group.space(), "maps": maps}
    arguments |= {"level": maps.stride(0), "iterations": group.iterations, "blocks": blocks}
    return Launch(
        triton_backward.differentiate,
        (group.count * blocks,),
        arguments,
        {"BLOCK": BLOCK},
        fusion=False,
    )
