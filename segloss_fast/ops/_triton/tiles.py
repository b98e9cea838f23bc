"""Reading tiles of voxels in place: addresses, labels, targets, weights.

Strides and offsets are 64-bit integers (the interpreter has to be told); only offsets inside a tile
are 32-bit. Labels are compared and never used as an offset, so that no label can lead out of
bounds. What kernels are compiled for comes as one constant, a ``Kind`` (see kinds.py).

The records here pass between jitted functions only. A kernel's own arguments stay apart: in a tuple
do_not_specialize and the annotated types have no effect, so that a stride of 1, a multiple of 16
or one of more than 32 bits would each make a new kernel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

# How the voxels of the tensors lie; views.py chooses.
PLANES = tl.constexpr(0)  # contiguous voxels in every class; any batch and class strides
CHANNELS_LAST = tl.constexpr(1)  # contiguous classes in every voxel
STRIDED = tl.constexpr(2)  # any strides, three dimensions

# Sizes and strides must not make new kernels.
INPUT_SIZES = ("x_bs", "x_cs", "x_s0", "x_s1", "x_s2")
TARGET_SIZES = ("t_bs", "t_cs", "t_s0", "t_s1", "t_s2")
GRADIENT_SIZES = ("g_bs", "g_cs", "g_s0", "g_s1", "g_s2")
SIZES = (*INPUT_SIZES, *TARGET_SIZES, "voxels", "n1", "n2", "chunks", "ignore")

NO_WEIGHT = tl.constexpr(0)
SHARED_WEIGHT = tl.constexpr(1)


class View(NamedTuple):
    """A tensor: its address, and the strides of batch, classes, and three dimensions of voxels."""

    pointer: Any
    batch: Any
    classes: Any
    s0: Any
    s1: Any
    s2: Any


class Tile(NamedTuple):
    """Voxels of one item: first + lanes, which of them exist ``[V]``, and the sizes (n1, n2)."""

    item: Any
    first: Any
    lanes: Any
    exists: Any
    sizes: Any


class Block(NamedTuple):
    """Classes of a tile ``[C]``, which exist ``[C, 1]``, and which of their voxels ``[C, V]``."""

    c: Any
    in_c: Any
    mask: Any


@triton.jit
def _strided(view, first, lanes, sizes):
    """Return the offsets ``[V]`` of voxels in row-major order of sizes (., n1, n2)."""
    _, _, _, s0, s1, s2 = view
    n1, n2 = sizes
    v = first + lanes
    rows = v // n2
    return (rows // n1) * s0 + (rows % n1) * s1 + (v % n2) * s2


@triton.jit
def class_pointers(view, tile, c, kind: tl.constexpr):
    """Return the addresses ``[C, V]`` of a tile's voxels.

    The strides of PLANES and the batch stride of CHANNELS_LAST come in units of UNIT elements: the
    compiler sees that they are multiples of it, whatever their value, and loads vectors.
    """
    item, first, lanes = tile.item, tile.first, tile.lanes
    if kind.LAYOUT == PLANES:
        rows = c.to(tl.int64)[:, None] * (view.classes.to(tl.int64) * kind.UNIT)
        start = view.pointer + item * (view.batch.to(tl.int64) * kind.UNIT) + first
        return start + rows + lanes[None, :]
    elif kind.LAYOUT == CHANNELS_LAST:
        inside = lanes[None, :] * kind.C + c[:, None]
        return (
            view.pointer + item * (view.batch.to(tl.int64) * kind.UNIT) + first * kind.C
        ) + inside
    else:
        rows = c.to(tl.int64)[:, None] * view.classes
        voxels = _strided(view, first, lanes, tile.sizes)
        return view.pointer + item * view.batch + rows + voxels[None, :]


@triton.jit
def voxel_pointers(view, item, first, lanes, sizes, LAYOUT: tl.constexpr, UNIT: tl.constexpr):
    """Return the addresses ``[V]`` in a tensor without classes."""
    pointer, batch_stride, _, _, _, _ = view
    if LAYOUT == STRIDED:
        return pointer + item * batch_stride.to(tl.int64) + _strided(view, first, lanes, sizes)
    else:
        return (pointer + item * (batch_stride.to(tl.int64) * UNIT) + first) + lanes


@triton.jit
def comparable(label):
    """Return labels in a type in which they are compared with others exactly."""
    if label.dtype.is_floating():
        return label if label.dtype == tl.float64 else label.to(tl.float32)
    else:
        return label if label.dtype == tl.int64 else label.to(tl.int32)


@triton.jit
def _counted(value, in_v, ignore, IGNORE: tl.constexpr):
    if IGNORE:
        return in_v & (value != ignore.to(value.dtype))
    else:
        return in_v


@triton.jit
def classify(label, in_v, ignore, C: tl.constexpr, IGNORE: tl.constexpr):
    """Return, ``[V]``: the class or -1, whether the voxel counts, whether its label is invalid."""
    value = comparable(label)
    counts = _counted(value, in_v, ignore, IGNORE)
    if C == 1:
        valid = (value == 0) | (value == 1)
        return tl.where(counts & (value == 1), 0, -1), counts, counts & (valid == 0)
    else:
        valid = (value >= 0) & (value < C) & counts
        if label.dtype.is_floating():
            valid = valid & (value == tl.floor(value))
        return tl.where(valid, value, -1).to(tl.int32), counts, counts & (valid == 0)


@triton.jit
def check_values(value, in_v, ignore, IGNORE: tl.constexpr):
    """Return values ``[V]`` of one class, 0 where they are ignored or bad; and as classify()."""
    value = comparable(value)
    counts = _counted(value, in_v, ignore, IGNORE)
    valid = (value >= 0) & (value <= 1) & counts
    return tl.where(valid, value, 0), counts, counts & (valid == 0)


@triton.jit
def _zero_like(x):
    """Return zeros made of the input's sign, removed only after the compiler has laid out tiles.

    What they are added to is spread over the threads as the input is, not by default.
    """
    return ((x.to(tl.uint32, bitcast=True) >> 31) >> 1).to(tl.int32)


@triton.jit
def one_hot(code, c, x, ANCHOR: tl.constexpr):
    """Return which class ``[C, V]`` each voxel has; ANCHOR lays the tile out as the input's."""
    code = code[None, :]
    if ANCHOR:
        code += _zero_like(x)
    return code == c[:, None]


@triton.jit
def _pointers(view, tile, kind: tl.constexpr):
    return voxel_pointers(
        view, tile.item, tile.first, tile.lanes, tile.sizes, kind.LAYOUT, kind.UNIT
    )


@triton.jit
def truth_of(value, kind: tl.constexpr):
    """Return what was read of the target: of truth values 0 or 1, whatever their bytes."""
    return (value != 0).to(tl.uint8) if kind.TRUTH else value


@triton.jit
def load_voxels(view, tile, ignore, kind: tl.constexpr):
    """Return the class, whether it counts, and whether its label is invalid, of every voxel.

    Of the values of one class the first is the value; of several classes nobody reads the first and
    the last.
    """
    if kind.DENSE and kind.C > 1:
        return tile.exists, tile.exists, tile.exists
    else:
        label = truth_of(tl.load(_pointers(view, tile, kind), mask=tile.exists, other=0), kind)
        if kind.DENSE:
            return check_values(label, tile.exists, ignore, kind.IGNORE)
        else:
            return classify(label, tile.exists, ignore, kind.C, kind.IGNORE)


@triton.jit
def load_input(view, tile, block, counts, kind: tl.constexpr):
    """Return the input in float32, 0 where a voxel does not count: a NaN there has no share."""
    pointers = class_pointers(view, tile, block.c, kind)
    x = tl.load(pointers, mask=block.mask, other=0).to(tl.float32)
    # The load does not wait for the labels, so that both are under way at once.
    return tl.where(counts[None, :], x, 0.0) if kind.IGNORE else x


@triton.jit
def load_classes(view, tile, start, counts, kind: tl.constexpr):
    """Return the block of BLOCK_C classes from ``start`` on, and their input."""
    c = start + tl.arange(0, kind.BLOCK_C)
    in_c = (c < kind.C)[:, None]
    block = Block(c, in_c, in_c & tile.exists[None, :])
    return block, load_input(view, tile, block, counts, kind)


@triton.jit
def load_target(view, tile, block, code, x, kind: tl.constexpr, ANCHOR: tl.constexpr):
    """Return the target ``[C, V]``: boolean of class indices, float32 of values."""
    if kind.DENSE and kind.C == 1:  # what load_voxels() has read
        value = tl.where((block.c == 0)[:, None], code.to(tl.float32)[None, :], 0.0)
        return value + _zero_like(x).to(tl.float32) if ANCHOR else value
    elif kind.DENSE:
        pointers = class_pointers(view, tile, block.c, kind)
        return truth_of(tl.load(pointers, mask=block.mask, other=0), kind).to(tl.float32)
    else:
        return one_hot(code, block.c, x, ANCHOR)


@triton.jit
def load_shared_weight(view, tile, counts, kind: tl.constexpr):
    """Return the weight of all classes in float32 ``[V]``, 0 where a voxel does not count."""
    w = tl.load(_pointers(view, tile, kind), mask=tile.exists, other=0).to(tl.float32)
    return tl.where(counts, w, 0.0)


@triton.jit
def load_weight(view, tile, block, counts, kind: tl.constexpr):
    """Return the weight in float32, ``[1, V]`` or ``[C, V]``, 0 where a voxel does not count."""
    if kind.WEIGHT == SHARED_WEIGHT:
        return load_shared_weight(view, tile, counts, kind)[None, :]
    else:
        pointers = class_pointers(view, tile, block.c, kind)
        w = tl.load(pointers, mask=block.mask, other=0).to(tl.float32)
        return tl.where(counts[None, :], w, 0.0)


@triton.jit
def fold(value, FOLD: tl.constexpr, NEIGHBOURS: tl.constexpr):
    """Sum ``[C, V]`` over groups of FOLD voxels, those that one thread holds: no exchange.

    They are neighbours where threads load vectors of voxels; else they are V / FOLD apart.
    """
    C: tl.constexpr = value.shape[0]
    LANES: tl.constexpr = value.shape[1] // FOLD
    if FOLD == 1:
        return value
    elif NEIGHBOURS:
        return tl.sum(tl.reshape(value, [C, LANES, FOLD]), 2)
    else:
        return tl.sum(tl.reshape(value, [C, FOLD, LANES]), 1)


@triton.jit
def _halves(value, NEIGHBOURS: tl.constexpr):
    """Return two tiles ``[R, V / 2]``: every second voxel, or the first half and the second."""
    R: tl.constexpr = value.shape[0]
    HALF: tl.constexpr = value.shape[1] // 2
    if NEIGHBOURS:
        return tl.split(tl.reshape(value, [R, HALF, 2]))
    else:
        return tl.split(tl.permute(tl.reshape(value, [R, 2, HALF]), (0, 2, 1)))


@triton.jit
def parts(value, FOLD: tl.constexpr, NEIGHBOURS: tl.constexpr):
    """Return the FOLD tiles ``[R, V / FOLD]`` of the voxels that fold() would add, one by one."""
    found = (value,)
    for step in tl.static_range(3):
        if FOLD >> step > 1:
            halves = ()
            for place in tl.static_range(1 << step):
                pair = _halves(found[place], NEIGHBOURS)
                halves = halves + (pair[0], pair[1])  # noqa: RUF005
            found = halves
    return found
