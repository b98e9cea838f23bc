"""Reading tiles of voxels in place: addresses, labels, targets, weights.

A view is a tuple (pointer, batch stride, class stride, three voxel strides). Strides and offsets
are 64-bit integers (the interpreter has to be told); only offsets inside a tile are 32-bit. Labels
are compared and never used as an offset, so that no label can lead out of bounds.
"""

from __future__ import annotations

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


@triton.jit
def _strided(view, first, lanes, sizes):
    """Return the offsets ``[V]`` of voxels in row-major order of sizes (., n1, n2)."""
    _, _, _, s0, s1, s2 = view
    n1, n2 = sizes
    v = first + lanes
    rows = v // n2
    return (rows // n1) * s0 + (rows % n1) * s1 + (v % n2) * s2


@triton.jit
def class_pointers(
    view, item, c, first, lanes, sizes, C: tl.constexpr, LAYOUT: tl.constexpr, UNIT: tl.constexpr
):
    """Return the addresses ``[C, V]`` of the voxels first + lanes of one item.

    The strides of PLANES and the batch stride of CHANNELS_LAST come in units of UNIT elements: the
    compiler sees that they are multiples of it, whatever their value, and loads vectors.
    """
    pointer, batch_stride, class_stride, _, _, _ = view
    if LAYOUT == PLANES:
        rows = c.to(tl.int64)[:, None] * (class_stride.to(tl.int64) * UNIT)
        return (pointer + item * (batch_stride.to(tl.int64) * UNIT) + first) + rows + lanes[None, :]
    elif LAYOUT == CHANNELS_LAST:
        inside = lanes[None, :] * C + c[:, None]
        return (pointer + item * (batch_stride.to(tl.int64) * UNIT) + first * C) + inside
    else:
        rows = c.to(tl.int64)[:, None] * class_stride
        return pointer + item * batch_stride + rows + _strided(view, first, lanes, sizes)[None, :]


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
def load_voxels(
    view,
    item,
    first,
    lanes,
    in_v,
    sizes,
    ignore,
    C: tl.constexpr,
    LAYOUT: tl.constexpr,
    UNIT: tl.constexpr,
    DENSE: tl.constexpr,
    IGNORE: tl.constexpr,
):
    """Return the class, whether it counts, and whether its label is invalid, of every voxel.

    Of the values of one class the first is the value; of several classes nobody reads the first and
    the last.
    """
    if DENSE and C > 1:
        return in_v, in_v, in_v
    else:
        pointers = voxel_pointers(view, item, first, lanes, sizes, LAYOUT, UNIT)
        label = tl.load(pointers, mask=in_v, other=0)
        if DENSE:
            return check_values(label, in_v, ignore, IGNORE)
        else:
            return classify(label, in_v, ignore, C, IGNORE)


@triton.jit
def load_input(
    view,
    item,
    c,
    first,
    lanes,
    mask,
    counts,
    sizes,
    C: tl.constexpr,
    LAYOUT: tl.constexpr,
    UNIT: tl.constexpr,
    IGNORE: tl.constexpr,
):
    """Return the input in float32, 0 where a voxel does not count: a NaN there has no share."""
    pointers = class_pointers(view, item, c, first, lanes, sizes, C, LAYOUT, UNIT)
    x = tl.load(pointers, mask=mask, other=0).to(tl.float32)
    # The load does not wait for the labels, so that both are under way at once.
    return tl.where(counts[None, :], x, 0.0) if IGNORE else x


@triton.jit
def load_classes(
    view, item, start, first, lanes, in_v, counts, sizes, C: tl.constexpr, LAYOUT: tl.constexpr,
    UNIT: tl.constexpr, IGNORE: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return the classes of a block, which of them exist ``[C, 1]``, and their input."""
    c = start + tl.arange(0, BLOCK_C)
    in_c = (c < C)[:, None]
    mask = in_c & in_v[None, :]
    x = load_input(view, item, c, first, lanes, mask, counts, sizes, C, LAYOUT, UNIT, IGNORE)
    return c, in_c, x


@triton.jit
def load_target(
    view,
    code,
    x,
    item,
    c,
    first,
    lanes,
    mask,
    sizes,
    C: tl.constexpr,
    LAYOUT: tl.constexpr,
    UNIT: tl.constexpr,
    DENSE: tl.constexpr,
    ANCHOR: tl.constexpr,
):
    """Return the target ``[C, V]``: boolean of class indices, float32 of values."""
    if DENSE and C == 1:  # what load_voxels() has read
        value = tl.where((c == 0)[:, None], code.to(tl.float32)[None, :], 0.0)
        return value + _zero_like(x).to(tl.float32) if ANCHOR else value
    elif DENSE:
        pointers = class_pointers(view, item, c, first, lanes, sizes, C, LAYOUT, UNIT)
        return tl.load(pointers, mask=mask, other=0).to(tl.float32)
    else:
        return one_hot(code, c, x, ANCHOR)


@triton.jit
def load_weight(
    view,
    item,
    c,
    first,
    lanes,
    mask,
    in_v,
    counts,
    sizes,
    C: tl.constexpr,
    LAYOUT: tl.constexpr,
    UNIT: tl.constexpr,
    WEIGHT: tl.constexpr,
):
    """Return the weight in float32, ``[1, V]`` or ``[C, V]``, 0 where a voxel does not count."""
    if WEIGHT == SHARED_WEIGHT:
        pointers = voxel_pointers(view, item, first, lanes, sizes, LAYOUT, UNIT)
        w = tl.load(pointers, mask=in_v, other=0).to(tl.float32)
        return tl.where(counts, w, 0.0)[None, :]
    else:
        pointers = class_pointers(view, item, c, first, lanes, sizes, C, LAYOUT, UNIT)
        w = tl.load(pointers, mask=mask, other=0).to(tl.float32)
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
