"""The Triton kernels of soft_skeleton that go from level to level: erosions, openings, skeleton.

A volume is a stack of slices (an image one of its rows). A program owns a block of neighbouring
voxels of a slice and goes with them through some slices of one plane, an item's class, so that a
slice's minima and maxima are formed once for the three windows that it is in.

Scratch maps hold one plane after another, contiguous. A level's launch reads the neighbourhood of
img_(j+1), of which it forms both delta_j and img_(j+2): it moves 20 bytes per voxel in float32
(reads img_j, img_(j+1) and the skeleton, writes the skeleton and img_(j+2)), 18 where backward
records (no skeleton; delta_j in place of img_j, and codes). The first launch moves 12, or 14.

Codes, 16 bits per voxel and map, of its windows in the map, as in csrc/soft_skeleton/filters.inc:
which voxel is the minimum along slices, rows and columns (bits 0, 2, 4), how these three minima
compare, two by two (6, 8), and which voxel is the maximum (10 column, 12 row, 14 slice). The voxel:
0 the one before, 1 itself, 2 the one after; of equal ones the first, as PyTorch's pooling does. The
comparison: 0 the first is smaller, 1 equal, 2 larger.
"""

from __future__ import annotations

import triton
import triton.language as tl

# No kernel is compiled again for other sizes.
STRIDES = ("x_bs", "x_cs", "x_s0", "x_s1", "x_s2")
PLACE = ("slices", "rows", "width", "blocks", "chunks", "depth")
PLANES = ("start", "channels", "first")
SIZES = (*STRIDES, *PLACE, *PLANES)


@triton.jit
def place(slices, rows, width, blocks, chunks, depth, BLOCK: tl.constexpr):
    """Return this program's plane, its first slice and the one after its last, and its voxels."""
    program = tl.program_id(0)
    chunk = program // blocks
    begin = ((chunk % chunks) * depth).to(tl.int64)
    end = tl.minimum(begin + depth, slices)
    voxel = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return (chunk // chunks).to(tl.int64), begin, end, voxel


@triton.jit
def borders(voxel, rows, width):
    """Whether voxels of a slice exist; have one before and after in the row; in the column."""
    area = tl.cast(rows, tl.int64) * width
    row, column = voxel // width, voxel % width
    exists = voxel < area
    return exists, column > 0, column + 1 < width, row > 0, row + 1 < rows


@triton.jit
def in_stack(exists, z, slices):
    """Whether voxels exist in slice z."""
    # A tile, since the interpreter makes no mask of a tile and a number.
    z += exists.to(tl.int64) * 0
    return exists & (z >= 0) & (z < slices)


@triton.jit
def plane_offset(plane, bs, cs, start, channels, first):
    """Where a plane lies in a tensor, counted from plane ``start`` of the classes from first on."""
    plane += start
    item, c = plane // channels, first + plane % channels
    return item * bs + c * cs


@triton.jit
def _least(a, b, c, CODES: tl.constexpr):
    """The smallest of three, and which it is: the first of equal ones."""
    if CODES:
        second = b < a
        m = tl.where(second, b, a)
        third = c < m
        return tl.where(third, c, m), tl.where(third, 2, second.to(tl.int32))
    else:
        m = tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)
        return tl.minimum(m, c, propagate_nan=tl.PropagateNan.ALL), 0


@triton.jit
def _greatest(a, in_a, b, in_b, c, in_c, CODES: tl.constexpr):
    """The largest of three, and the code that stands beside it: of the first of equal ones."""
    if CODES:
        second = b > a
        m = tl.where(second, b, a)
        third = c > m
        return tl.where(third, c, m), tl.where(third, in_c, tl.where(second, in_b, in_a))
    else:
        m = tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
        return tl.maximum(m, c, propagate_nan=tl.PropagateNan.ALL), 0


@triton.jit
def _compared(a, b):
    return (a > b).to(tl.int32) + (a >= b).to(tl.int32)


@triton.jit
def _eroded(
    before, own, after, column, row, code, RANK: tl.constexpr, CODES: tl.constexpr
):  # fmt: skip
    """The minimum over a voxel and its face neighbours, given those within its slice; its code."""
    value = row
    if RANK > 1:
        value, index = _least(before, own, after, CODES)
        if CODES:
            code = code | index
        if RANK > 2:
            if CODES:
                code = code | (_compared(value, column) << 6)
            value = tl.minimum(value, column, propagate_nan=tl.PropagateNan.ALL)
        if CODES:
            code = code | (_compared(value, row) << 8)
        value = tl.minimum(value, row, propagate_nan=tl.PropagateNan.ALL)
    elif CODES:
        code = code | (2 << 8)
    return value, code


@triton.jit
def _within(
    own, left, right, up, down, RANK: tl.constexpr, CODES: tl.constexpr
):  # fmt: skip
    """The minima along the column and the row, and their codes."""
    row, index = _least(left, own, right, CODES)
    code = index << 4
    column = own
    if RANK > 2:
        column, index = _least(up, own, down, CODES)
        code = code | (index << 2)
    return column, row, code


@triton.jit
def _line(here, there, left, right, LOW: tl.constexpr):
    """Three neighbours of a row."""
    a = tl.load(here - 1, mask=there & left, other=LOW)
    b = tl.load(here, mask=there, other=LOW)
    return a, b, tl.load(here + 1, mask=there & right, other=LOW)


@triton.jit
def _slice(
    here, there, left, right, up, down, width,
    RANK: tl.constexpr, ERODE: tl.constexpr, CODES: tl.constexpr,
):  # fmt: skip
    """Of the windows within a slice: the maximum, the voxel itself, and the minima; their codes."""
    LOW: tl.constexpr = 0 if here.dtype.element_ty == tl.uint8 else float("-inf")
    HIGH: tl.constexpr = 1 if here.dtype.element_ty == tl.uint8 else float("inf")
    a, own, c = _line(here, there, left, right, LOW)
    most, code = _greatest(a, 0, own, 1 << 10, c, 2 << 10, CODES)
    place_of = code + (1 << 12)
    over = own
    under = own
    if RANK > 2:
        d, over, f = _line(here - width, there & up, left, right, LOW)
        g, under, i = _line(here + width, there & down, left, right, LOW)
        m0, c0 = _greatest(d, 0, over, 1 << 10, f, 2 << 10, CODES)
        m2, c2 = _greatest(g, 0, under, 1 << 10, i, 2 << 10, CODES)
        most, place_of = _greatest(m0, c0, most, place_of, m2, c2 + (2 << 12), CODES)
    column = own
    row = own
    code = place_of
    if ERODE:
        own = tl.where(there, own, HIGH)
        column, row, code = _within(
            own, tl.where(there & left, a, HIGH), tl.where(there & right, c, HIGH),
            tl.where(there & up, over, HIGH), tl.where(there & down, under, HIGH), RANK, CODES,
        )  # fmt: skip
    return most, place_of, own, column, row, code


@triton.jit(do_not_specialize=SIZES)
def erode(
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    copy, after, codes,
    slices: tl.int64, rows: tl.int64, width: tl.int64,
    blocks: tl.int32, chunks: tl.int32, depth: tl.int32,
    start: tl.int64, channels: tl.int64, first: tl.int64,
    RANK: tl.constexpr, CODES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write img_0, that is the planes of x one after another, and img_1."""
    HIGH: tl.constexpr = 1 if x.dtype.element_ty == tl.uint8 else float("inf")
    plane, begin, end, voxel = place(slices, rows, width, blocks, chunks, depth, BLOCK)
    exists, left, right, up, down = borders(voxel, rows, width)
    here = x + plane_offset(plane, x_bs, x_cs, start, channels, first)
    here += (voxel // width) * x_s1 + (voxel % width) * x_s2
    area = tl.cast(rows, tl.int64) * width
    to = plane * slices * area + voxel
    step = tl.cast(x_s0, tl.int64)
    before = tl.load(
        here + (begin - 1) * step, mask=in_stack(exists, begin - 1, slices), other=HIGH
    )
    own = tl.load(here + begin * step, mask=exists, other=HIGH)
    for slice_ in range(begin, end):
        z = tl.cast(slice_, tl.int64)
        there = here + z * step
        next_ = tl.load(there + step, mask=in_stack(exists, z + 1, slices), other=HIGH)
        above = own
        below = own
        if RANK > 2:
            above = tl.load(there - x_s1, mask=exists & up, other=HIGH)
            below = tl.load(there + x_s1, mask=exists & down, other=HIGH)
        column, row, code = _within(
            own,
            tl.load(there - x_s2, mask=exists & left, other=HIGH),
            tl.load(there + x_s2, mask=exists & right, other=HIGH),
            above, below, RANK, CODES,
        )  # fmt: skip
        value, code = _eroded(before, own, next_, column, row, code, RANK, CODES)
        tl.store(copy + to + z * area, own, mask=exists)
        tl.store(after + to + z * area, value, mask=exists)
        if CODES:
            tl.store(codes + to + z * area, code.to(tl.int16), mask=exists)
        before = own
        own = next_


@triton.jit
def extended(skeleton, delta):
    """Return skeleton + relu(delta - skeleton delta); a NaN stays one."""
    known = skeleton * delta
    return skeleton + tl.where(delta <= known, 0, delta - known)


@triton.jit(do_not_specialize=SIZES)
def advance(
    own, img, after, known, codes,
    out, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    slices: tl.int64, rows: tl.int64, width: tl.int64,
    blocks: tl.int32, chunks: tl.int32, depth: tl.int32,
    start: tl.int64, channels: tl.int64, first: tl.int64,
    RANK: tl.constexpr, CODES: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Write delta_j in place of ``own``, img_j; ``after``, img_(j+2); the codes of img_(j+1).

    Without CODES, extend the skeleton ``known`` instead of writing delta_j; the LAST goes to
    ``out``, and has no erosion to follow.
    """
    plane, begin, end, voxel = place(slices, rows, width, blocks, chunks, depth, BLOCK)
    exists, left, right, up, down = borders(voxel, rows, width)
    area = tl.cast(rows, tl.int64) * width
    at = plane * slices * area + voxel
    here = img + at
    to = out + plane_offset(plane, x_bs, x_cs, start, channels, first)
    to += (voxel // width) * x_s1 + (voxel % width) * x_s2
    most0, place0, own0, _, _, _ = _slice(
        here + (begin - 1) * area, in_stack(exists, begin - 1, slices),
        left, right, up, down, width, RANK, not LAST, CODES,
    )  # fmt: skip
    most1, place1, own1, column, row, code1 = _slice(
        here + begin * area, exists, left, right, up, down, width, RANK, not LAST, CODES
    )
    for slice_ in range(begin, end):
        z = tl.cast(slice_, tl.int64)
        most2, place2, own2, next_column, next_row, code2 = _slice(
            here + (z + 1) * area, in_stack(exists, z + 1, slices),
            left, right, up, down, width, RANK, not LAST, CODES,
        )  # fmt: skip
        opened, code = _greatest(
            most0, place0, most1, place1 + (1 << 14), most2, place2 + (2 << 14), CODES
        )
        value = tl.load(own + at + z * area, mask=exists, other=0)
        delta = tl.where(value <= opened, 0, value - opened)
        if CODES:
            tl.store(own + at + z * area, delta, mask=exists)
        else:
            if not FIRST:
                delta = extended(tl.load(known + at + z * area, mask=exists, other=0), delta)
            if LAST:
                tl.store(to + z * x_s0, delta, mask=exists)
            else:
                tl.store(known + at + z * area, delta, mask=exists)
        if not LAST:
            value, found = _eroded(own0, own1, own2, column, row, code1, RANK, CODES)
            tl.store(after + at + z * area, value, mask=exists)
            if CODES:
                code = code | found
        if CODES:
            tl.store(codes + at + z * area, code.to(tl.int16), mask=exists)
        most0, place0, own0 = most1, place1, own1
        most1, place1, own1 = most2, place2, own2
        column, row, code1 = next_column, next_row, code2
