"""The Triton kernels of soft_skeleton's gradient, which follow those of triton_kernels.py.

Map j of the scratch memory holds delta_j by then, codes j those of img_j's windows.
``differentiate`` replaces delta_j by its gradient: 8 bytes moved per voxel and level in float32.
``collect`` replaces that of level j by the gradient of img_j: 18 bytes (it reads the gradients of
delta_j, delta_(j-1) and img_(j+1), and the codes; and writes). A voxel collects from the windows
whose code names it, those of maxima in the order of memory, as PyTorch adds them up: nothing is
scattered.
"""

from __future__ import annotations

import triton
import triton.language as tl

from segloss_fast.ops.soft_skeleton.triton_kernels import (
    PLANES,
    SIZES,
    STRIDES,
    borders,
    extended,
    in_stack,
    place,
    plane_offset,
)

VOXELS = (*STRIDES, *PLANES, "slices", "rows", "width", "blocks", "level", "iterations")


@triton.jit(do_not_specialize=VOXELS)
def differentiate(
    grad, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    maps, level: tl.int64, iterations: tl.int32,
    slices: tl.int64, rows: tl.int64, width: tl.int64, blocks: tl.int32,
    start: tl.int64, channels: tl.int64, first: tl.int64,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Replace delta_0 ... delta_k by their gradients, given that of the skeleton.

    The skeleton before level j is formed again for every j, of maps that are still in the cache.
    ``level``: from one map to the next.
    """
    plane = (tl.program_id(0) // blocks).to(tl.int64)
    voxel = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = voxel < tl.cast(slices, tl.int64) * rows * width
    row = voxel // width
    there = grad + plane_offset(plane, x_bs, x_cs, start, channels, first)
    there += (row // rows) * x_s0 + (row % rows) * x_s1 + (voxel % width) * x_s2
    g = tl.load(there, mask=exists, other=0)
    here = maps + plane * slices * rows * width + voxel
    for done in range(0, iterations):
        j = tl.cast(iterations - done, tl.int64)
        skeleton = tl.load(here, mask=exists, other=0)
        for i in range(1, iterations - done):
            earlier = here + tl.cast(i, tl.int64) * level
            skeleton = extended(skeleton, tl.load(earlier, mask=exists, other=0))
        delta = tl.load(here + j * level, mask=exists, other=0)
        passed = tl.where(delta <= skeleton * delta, 0.0, g)
        g = g - passed * delta
        tl.store(here + j * level, passed * (1 - skeleton), mask=exists)
    delta = tl.load(here, mask=exists, other=0)
    tl.store(here, tl.where(delta <= 0, 0.0, g), mask=exists)


@triton.jit
def _shared(
    totals, word, g, DH: tl.constexpr, DW: tl.constexpr, RANK: tl.constexpr
):  # fmt: skip
    """Add the parts of a window of an erosion: all to the smallest, equal ones share.

    Half and half, the first two and then the third, as torch.minimum does.
    """
    before, now, after = totals
    third = ((word >> 8) & 3).to(g.dtype) * 0.5
    second = ((word >> 6) & 3).to(g.dtype) * 0.5
    if DH == 0 and DW == 0 and RANK > 1:
        part = (1 - third) * (1 - second) * g
        before += tl.where(word & 3 == 0, part, 0.0)
        now += tl.where(word & 3 == 1, part, 0.0)
        after += tl.where(word & 3 == 2, part, 0.0)
    if DW == 0 and RANK > 2:
        now += tl.where((word >> 2) & 3 == 1 - DH, (1 - third) * second * g, 0.0)
    if DH == 0:
        now += tl.where((word >> 4) & 3 == 1 - DW, third * g, 0.0)
    return before, now, after


@triton.jit(do_not_specialize=SIZES)
def collect(
    opened, eroded, own, codes,
    out, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    slices: tl.int64, rows: tl.int64, width: tl.int64,
    blocks: tl.int32, chunks: tl.int32, depth: tl.int32,
    start: tl.int64, channels: tl.int64, first: tl.int64,
    RANK: tl.constexpr, OPENED: tl.constexpr, ERODED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradient of img_j: to ``out``, or where the image is OPENED in place of ``own``.

    opened: Minus the gradient of the opening, delta_(j-1)'s; for j > 0.
    eroded: The gradient of img_(j+1), of an ERODED image.
    own: The gradient of delta_j, if there is one: of an ERODED image.
    codes: Those of img_j.
    """
    plane, begin, end, voxel = place(slices, rows, width, blocks, chunks, depth, BLOCK)
    exists, left, right, up, down = borders(voxel, rows, width)
    area = tl.cast(rows, tl.int64) * width
    at = plane * slices * area + voxel
    to = out + plane_offset(plane, x_bs, x_cs, start, channels, first)
    to += (voxel // width) * x_s1 + (voxel % width) * x_s2
    zero = tl.zeros([BLOCK], own.dtype.element_ty)
    # Of the slice before, of this one and of the next: of maxima, and of minima.
    largest0, largest1 = zero, zero
    least0, least1 = zero, zero
    for slice_ in range(begin - 1, end + 1):
        z = tl.cast(slice_, tl.int64)
        there = in_stack(exists, z, slices)
        here = at + z * area
        largest2, least2 = zero, zero
        for DH in tl.static_range(-1 if RANK > 2 else 0, 2 if RANK > 2 else 1):
            for DW in tl.static_range(-1, 2):
                if OPENED or DH == 0 or DW == 0:
                    beside = there
                    if DH < 0:
                        beside = beside & up
                    if DH > 0:
                        beside = beside & down
                    if DW < 0:
                        beside = beside & left
                    if DW > 0:
                        beside = beside & right
                    window = here + DH * width + DW
                    # Where there is no window, all fields are 3, which names nothing.
                    word = tl.load(codes + window, mask=beside, other=-1).to(tl.int32)
                    if OPENED:
                        g = tl.load(opened + window, mask=beside, other=0)
                        code = (word >> 10) & 63
                        # That of this voxel, seen from the window, in its slice.
                        largest0 += tl.where(code == 5 - DW - 4 * DH, g, 0.0)
                        largest1 += tl.where(code == 5 - DW - 4 * DH + 16, g, 0.0)
                        largest2 += tl.where(code == 5 - DW - 4 * DH + 32, g, 0.0)
                    if ERODED and (DH == 0 or DW == 0):
                        g = tl.load(eroded + window, mask=beside, other=0)
                        least0, least1, least2 = _shared(
                            (least0, least1, least2), word, g, DH, DW, RANK
                        )
        # The slice before has it all.
        ready = in_stack(exists, z - 1 - begin, slices)
        total = least0 - largest0
        if ERODED:
            total = tl.load(own + here - area, mask=ready, other=0) - largest0 + least0
        if OPENED:
            tl.store(own + here - area, total, mask=ready)
        else:
            tl.store(to + (z - 1) * x_s0, total, mask=ready)
        largest0, largest1 = largest1, largest2
        least0, least1 = least1, least2
