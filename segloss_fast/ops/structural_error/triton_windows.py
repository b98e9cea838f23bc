"""What the Triton kernels of structural_error share: tiles of voxels, and windows along an axis."""

from __future__ import annotations

import triton
import triton.language as tl

# A warp reads 32 neighbours. Rows share what their windows have in common.
ROWS = tl.constexpr(16)
COLS = tl.constexpr(32)


@triton.jit
def tile(rows, cols, row_blocks, col_blocks):
    """Return the program's outer index, its rows ``[R, 1]`` and its columns ``[1, C]``."""
    block = tl.program_id(0)
    col = (block % col_blocks).to(tl.int64) * COLS + tl.arange(0, COLS)[None, :]
    block = block // col_blocks
    row = (block % row_blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    return (block // row_blocks).to(tl.int64), row, col


@triton.jit
def reach_of(along, size, exists, radius):
    """Return how far the window goes either way from a voxel of an axis: 32 bits for the loops.

    Of voxels that do not exist it is nowhere.
    """
    most = radius + 0 * along
    before = tl.where(exists, tl.minimum(along, most), -1 - most)
    return before.to(tl.int32), tl.minimum(size - 1 - along, most).to(tl.int32)


@triton.jit
def inside(k, reach):
    """Whether the voxel k further is in the map."""
    before, after = reach
    return (k >= -before) & (k <= after)


@triton.jit
def place_of(outer, row, col, placing, LAST: tl.constexpr, UNIT: tl.constexpr):
    """Return the item, class and three coordinates; of a tile not LAST the axis is the first.

    UNIT: a slice's voxels follow each other, which the compiler has to know to let a warp read
    neighbours. Then a tile's columns are the last coordinate.
    """
    plane, channels, first, n0, n1, n2 = placing
    if LAST:
        i1 = row % n1
        slices = row // n1
        i0 = slices % n0
        plane = plane + slices // n0
        i2 = col
    else:
        i0 = row
        plane = plane + outer
        i1 = 0 if UNIT else col // n2
        i2 = col if UNIT else col % n2
    return plane // channels, plane % channels + first, i0, i1, i2


@triton.jit
def address(pointer, place, strides, UNIT: tl.constexpr):
    """Return where voxels of a tensor ``[B, C, *S]`` lie, at a place of place_of."""
    item, channel, i0, i1, i2 = place
    bs, cs, s0, s1, s2 = strides
    plane = item * bs.to(tl.int64) + channel * cs.to(tl.int64)
    step = 1 if UNIT else s2.to(tl.int64)
    return pointer + plane + i0 * s0.to(tl.int64) + i1 * s1.to(tl.int64) + i2 * step


@triton.jit
def moments(mean, variance, step, reach, exists, window, radius, HAS_VARIANCE: tl.constexpr):
    """Return m' = m + sum g (m_shift - m), v' = sum g (v_shift + (m_shift - m')^2), and a rest.

    m' is formed from differences, so that equal values have exactly their mean, and v' is 0. The
    rest sum g (m_shift - m') would be 0 if m' were not rounded.
    """
    dtype: tl.constexpr = window.dtype.element_ty
    own = tl.load(mean, exists, 0).to(dtype)
    mean_out = own
    for d in range(0, 2 * radius + 1):
        k = d - radius
        m = tl.load(mean + k * step, inside(k, reach), 0).to(dtype)
        mean_out += tl.load(window + d) * (m - own)
    variance_out = tl.zeros_like(own)
    rest = tl.zeros_like(own)
    for d in range(0, 2 * radius + 1):
        k = d - radius
        there = inside(k, reach)
        apart = tl.load(mean + k * step, there, 0).to(dtype) - mean_out
        square = apart * apart
        if HAS_VARIANCE:
            square += tl.load(variance + k * step, there, 0)
        weight = tl.load(window + d)
        variance_out += weight * square
        rest += weight * apart
    return mean_out, variance_out, rest


@triton.jit
def gradients(pointers, own, step, reach, window, radius, HAS_VARIANCE: tl.constexpr):
    """Return dm = sum g (dm' + 2 dv' (m - m')) and dv = sum g dv', over windows with the voxel.

    The pointers are to m', dm' and dv'. dm' holds -2 dv' rest, without which small deviations would
    make much of the rounding of m'.
    """
    mean, grad_mean, grad_variance = pointers
    dm = tl.zeros_like(own)
    dv = tl.zeros_like(own)
    for d in range(0, 2 * radius + 1):
        k = d - radius
        there = inside(k, reach)
        weight = tl.load(window + d)
        m = tl.load(mean + k * step, there, 0)
        of_variance = tl.load(grad_variance + k * step, there, 0)
        dm += weight * (tl.load(grad_mean + k * step, there, 0) + 2 * of_variance * (own - m))
        if HAS_VARIANCE:
            dv += weight * of_variance
    return dm, dv
