"""The Triton kernels of nearest_component: brute force from each voxel outwards.

As those of distance_transform, but between the passes a voxel carries the squared distance to its
nearest labelled voxel, and that one's label; of equal squares the lesser label wins.
"""

# Triton's compiler reads the annotations, and knows none for pointers and tiles.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from segloss_fast.ops.distance_transform.triton_kernels import SIZES

MOST = tl.constexpr(2**31 - 1)  # the largest label


@triton.jit
def _label(pointers, look):
    """Return each voxel's label, 0 for what is none, and where nobody is to look."""
    value = tl.load(pointers, mask=look, other=0).to(tl.int64)
    return tl.where((value > 0) & (value <= MOST), value, 0).to(tl.int32)


@triton.jit
def _store(labels, squares, exists, label, square, unit, LAST: tl.constexpr, SQUARES: tl.constexpr):
    """Write labels, and squares or, in the last pass, distances where somebody needs them."""
    tl.store(labels, label, mask=exists)
    if SQUARES:
        if LAST:
            square = tl.sqrt_rn(square) * unit
        tl.store(squares, square, mask=exists)


@triton.jit(do_not_specialize=SIZES)
def line_labels(
    mask, label_out, square_out,
    m_bs: tl.int64, m_cs: tl.int64, m_ds: tl.int64, m_hs: tl.int64, m_ws: tl.int64,
    voxels: tl.int64, channels: tl.int64, depth: tl.int64, height: tl.int64, width: tl.int64,
    weight: tl.float32, unit: tl.float32,
    LAST: tl.constexpr, SQUARES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the nearest labels along the last axis, from labels read in place."""
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
    best = _label(here, exists)
    run = tl.zeros([BLOCK], tl.float32)
    searching = exists & (best == 0)
    apart = tl.full([], 1, tl.int64)
    while (apart < width) & (tl.max(searching.to(tl.int32), 0) > 0):
        left = _label(here - apart * m_ws, searching & (x >= apart))
        right = _label(here + apart * m_ws, searching & (x + apart < width))
        # The lesser one of two, or the only one.
        label = tl.where((left == 0) | (right == 0), left + right, tl.minimum(left, right))
        best = tl.where(searching, label, best)
        run = tl.where(searching, apart.to(tl.float32), run)
        apart += 1
        searching = searching & (best == 0) & ((x >= apart) | (x + apart < width))
    square = tl.where(best > 0, run * run * weight, float("inf"))
    _store(label_out + voxel, square_out + voxel, exists, best, square, unit, LAST, SQUARES)


@triton.jit(do_not_specialize=SIZES)
def least_pairs(
    label_in, square_in, label_out, square_out,
    voxels: tl.int64, inner: tl.int64, size: tl.int64, weight: tl.float32, unit: tl.float32,
    LAST: tl.constexpr, SQUARES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write, for each row of an axis, the least of a square and the squared distance to it."""
    voxel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = voxel < voxels
    row = (voxel // inner) % size
    best = tl.load(square_in + voxel, mask=exists, other=0.0)
    label = tl.load(label_in + voxel, mask=exists, other=0)
    apart = tl.full([], 1, tl.int64)
    cost = apart.to(tl.float32) * weight
    while (apart < size) & (tl.max(best, 0) >= cost):  # as near may be a lesser label
        for side in tl.static_range(2):
            look = (best >= cost) & (row >= apart if side == 0 else row + apart < size)
            there = voxel - apart * inner if side == 0 else voxel + apart * inner
            square = tl.load(square_in + there, mask=look, other=float("inf")) + cost
            other = tl.load(label_in + there, mask=look, other=0)
            less = look & ((square < best) | ((square == best) & (other < label)))
            best = tl.where(less, square, best)
            label = tl.where(less, other, label)
        apart += 1
        cost = apart.to(tl.float32) * apart.to(tl.float32) * weight
    _store(label_out + voxel, square_out + voxel, exists, label, best, unit, LAST, SQUARES)
