"""The Triton kernels of distance_transform: brute force from each voxel outwards.

A program owns a block of voxels that neighbour each other in memory, and looks ever further along
one axis in both directions until none of them can gain. Between the passes a voxel carries one
signed number, the squared distance in the axes done so far to the nearest voxel of the other side:
positive inside, negative outside, so that one array serves both sides.
"""

from __future__ import annotations

import triton
import triton.language as tl

# No kernel is compiled again for other sizes.
STRIDES = ("m_bs", "m_cs", "m_ds", "m_hs", "m_ws")
SIZES = ("voxels", "channels", "depth", "height", "width", "inner", "size", *STRIDES)


@triton.jit
def _finished(
    square, root,
    LAST: tl.constexpr, SQUARED: tl.constexpr, NEGATE: tl.constexpr, BOUNDED: tl.constexpr,
):  # fmt: skip
    """Turn squares into the result, in the last pass; the unit of length is root^2."""
    result = square
    if LAST:
        result = tl.abs(square)
        result = result * root * root if SQUARED else tl.sqrt_rn(result)
        result = result * root * root
        if BOUNDED:
            result = tl.where(result == float("inf"), 0.0, result)
        if NEGATE:
            result = tl.where(square > 0, -result, result)
    return result


@triton.jit
def _store(out, result, exists, ADD: tl.constexpr):
    """Write the result, or add it to what is there."""
    if ADD:
        result += tl.load(out, mask=exists, other=0.0)
    tl.store(out, result, mask=exists)


@triton.jit
def _nonzero(pointers, look):
    """Whether each voxel is not zero; what is not to be looked at counts as zero."""
    value = tl.load(pointers, mask=look, other=0)
    if value.dtype == tl.bfloat16:
        value = value.to(tl.float32)  # the interpreter compares its bits: -0 would be inside
    return value != 0


@triton.jit(do_not_specialize=SIZES)
def line_squares(
    mask, out, m_bs: tl.int64, m_cs: tl.int64, m_ds: tl.int64, m_hs: tl.int64, m_ws: tl.int64,
    voxels: tl.int64, channels: tl.int64, depth: tl.int64, height: tl.int64, width: tl.int64,
    weight: tl.float32, root: tl.float32,
    COMPLEMENT: tl.constexpr, TWO_SIDED: tl.constexpr,
    LAST: tl.constexpr, SQUARED: tl.constexpr, NEGATE: tl.constexpr, BOUNDED: tl.constexpr,
    ADD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the squares along the last axis, from the mask read in place."""
    voxel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = voxel < voxels
    x = voxel % width
    line = voxel // width
    y = line % height
    line = line // height
    z = line % depth
    line = line // depth
    c = line % channels
    here = mask + (line // channels) * m_bs + c * m_cs + z * m_ds + y * m_hs + x * m_ws
    inside = _nonzero(here, exists)
    run = tl.zeros([BLOCK], tl.float32)
    searching = exists if TWO_SIDED else exists & (inside != COMPLEMENT)
    apart = tl.full([], 1, tl.int64)
    while (apart < width) & (tl.max(searching.to(tl.int32), 0) > 0):
        look = searching & (x >= apart)
        found = look & (_nonzero(here - apart * m_ws, look) != inside)
        look = searching & (x + apart < width)
        found = found | (look & (_nonzero(here + apart * m_ws, look) != inside))
        run = tl.where(found, apart.to(tl.float32), run)
        apart += 1
        searching = searching & (run == 0) & ((x >= apart) | (x + apart < width))
    square = tl.where(run > 0, run * run * weight, float("inf"))
    square = tl.where(inside != COMPLEMENT, square, -square)
    if not TWO_SIDED:
        square = tl.maximum(square, 0.0)
    result = _finished(square, root, LAST, SQUARED, NEGATE, BOUNDED)
    _store(out + voxel, result, exists, ADD)


@triton.jit(do_not_specialize=SIZES)
def least_squares(
    squares, out, voxels: tl.int64, inner: tl.int64, size: tl.int64,
    weight: tl.float32, root: tl.float32,
    LAST: tl.constexpr, SQUARED: tl.constexpr, NEGATE: tl.constexpr, BOUNDED: tl.constexpr,
    ADD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write, for each row of an axis, the least sum of a square and the squared distance to it."""
    voxel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = voxel < voxels
    row = (voxel // inner) % size
    here = squares + voxel
    own = tl.load(here, mask=exists, other=0.0)
    best = tl.abs(own)
    apart = tl.full([], 1, tl.int64)
    cost = apart.to(tl.float32) * weight
    while (apart < size) & (tl.max(best, 0) > cost):
        look = (best > cost) & (row >= apart)
        there = tl.load(here - apart * inner, mask=look, other=0.0)
        there = tl.maximum(tl.where(own > 0, there, -there), 0.0)
        best = tl.where(look, tl.minimum(best, there + cost), best)
        look = (best > cost) & (row + apart < size)
        there = tl.load(here + apart * inner, mask=look, other=0.0)
        there = tl.maximum(tl.where(own > 0, there, -there), 0.0)
        best = tl.where(look, tl.minimum(best, there + cost), best)
        apart += 1
        cost = apart.to(tl.float32) * apart.to(tl.float32) * weight
    best = tl.where(own < 0, -best, best)
    result = _finished(best, root, LAST, SQUARED, NEGATE, BOUNDED)
    _store(out + voxel, result, exists, ADD)
