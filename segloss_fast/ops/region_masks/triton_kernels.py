"""The Triton kernel of region_masks: one read of the values, a byte per class and voxel written.

A program owns a block of an item's voxels. Of a softmax at most one class exceeds one half, so it
keeps the most probable one alone: with m the largest logit so far and s the sum of e^(x - m), a
larger x turns s into s e^(m - x) + 1.
"""

from __future__ import annotations

import triton
import triton.language as tl

from segloss_fast.ops._triton.elementary import exp
from segloss_fast.ops._triton.tiles import comparable

SOFTMAX = tl.constexpr(0)  # as numbered in kernels.MODES
SIGMOID = tl.constexpr(1)
LABELS = tl.constexpr(3)
MOST32 = tl.constexpr(3.40282347e38)
MOST64 = tl.constexpr(1.7976931348623157e308)
IN_FLIGHT = tl.constexpr(4)  # classes that are asked for before any is used
# No kernel is compiled again for other sizes.
X_STRIDES = ("x_bs", "x_cs", "x_s0", "x_s1", "x_s2")
T_STRIDES = ("t_bs", "t_s0", "t_s1", "t_s2")
SIZES = ("voxels", "n1", "n2", "classes", "first", "blocks", "ignore", *X_STRIDES, *T_STRIDES)


@triton.jit
def _offsets(voxel, s0, s1, s2, n1, n2, LINEAR: tl.constexpr):
    """Where voxels lie, from the first of their item and class; LINEAR: one after another."""
    if LINEAR:
        return voxel
    else:
        line = voxel // n2
        return (line // n1) * s0 + (line % n1) * s1 + (voxel % n2) * s2


@triton.jit
def _widened(x):
    return x if x.dtype == tl.float64 else x.to(tl.float32)


@triton.jit
def _exp_nonpositive(x):
    if x.dtype == tl.float64:
        return tl.exp(x)
    else:
        return exp(x)


@triton.jit
def _most_probable(x, exists, x_cs, classes, BLOCK: tl.constexpr):
    """Return each voxel's class whose softmax exceeds one half, -1 where there is none."""
    if x.dtype.element_ty == tl.float64:
        largest = tl.full([BLOCK], -MOST64, tl.float64)
    else:
        largest = tl.full([BLOCK], -MOST32, tl.float32)
    total = tl.zeros_like(largest)
    top = tl.full([BLOCK], -1, tl.int32)
    for start in range(0, classes, IN_FLIGHT):
        for k in tl.static_range(IN_FLIGHT):
            # A tile, since the interpreter makes no mask of a tile and a number.
            c = tl.full([BLOCK], 0, tl.int32) + (start + k)
            there = x + tl.cast(start + k, tl.int64) * x_cs
            # Infinitely small adds nothing.
            logit = _widened(tl.load(there, exists & (c < classes), float("-inf")))
            leads = logit >= largest
            e = _exp_nonpositive(-tl.abs(logit - largest))
            total = tl.where(leads, total * e + 1, total + e)
            largest = tl.where(leads, logit, largest)
            top = tl.where(leads, c, top)
    # Where a logit is infinite the softmax is NaN.
    return tl.where((total < 2) & (largest < float("inf")), top, -1)


@triton.jit
def _store(to, c, n, inside, exists):
    tl.store(to + tl.cast(c, tl.int64) * n, inside.to(tl.uint8), mask=exists)


@triton.jit(do_not_specialize=SIZES)
def masks(
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    t, t_bs: tl.int64, t_s0: tl.int64, t_s1: tl.int64, t_s2: tl.int64, out,
    voxels: tl.int64, n1: tl.int64, n2: tl.int64, classes: tl.int32, first: tl.int32,
    blocks: tl.int32, ignore: tl.int64,
    MODE: tl.constexpr, IGNORES: tl.constexpr, ONE_CLASS: tl.constexpr,
    X_LINEAR: tl.constexpr, T_LINEAR: tl.constexpr, UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the masks of the values x (in mode LABELS class indices) where t is not ignored.

    UNIT: what voxels and the strides of batch and classes were divided by.
    """
    item = (tl.program_id(0) // blocks).to(tl.int64)
    n = voxels.to(tl.int64) * UNIT
    voxel = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = voxel < n
    counted = exists
    if IGNORES:
        there = t + item * (t_bs.to(tl.int64) * UNIT)
        label = tl.load(there + _offsets(voxel, t_s0, t_s1, t_s2, n1, n2, T_LINEAR), exists, 0)
        label = comparable(label)
        counted = exists & (label != ignore.to(label.dtype))
    here = x + item * (x_bs.to(tl.int64) * UNIT)
    here += _offsets(voxel, x_s0, x_s1, x_s2, n1, n2, X_LINEAR)
    class_stride = x_cs.to(tl.int64) * UNIT
    to = out + item * classes * n + voxel
    for c in range(0, first):
        _store(to, c, n, voxel < 0, exists)
    if MODE == LABELS:
        label = comparable(tl.load(here, exists, 0))
        for c in range(first, classes):
            inside = label == tl.cast(1 if ONE_CLASS else c, label.dtype)
            _store(to, c, n, inside & counted, exists)
    elif MODE == SOFTMAX:
        top = _most_probable(here, exists, class_stride, classes, BLOCK)
        for c in range(first, classes):
            _store(to, c, n, (top == c) & counted, exists)
    else:
        threshold = 0.0 if MODE == SIGMOID else 0.5
        for c in range(first, classes):
            value = _widened(tl.load(here + tl.cast(c, tl.int64) * class_stride, exists, 0))
            _store(to, c, n, (value > threshold) & counted, exists)
