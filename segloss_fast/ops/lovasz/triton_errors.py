"""Errors of a tile ``[C, V]`` of logits, and the bins that they fall into.

Forward and backward must find the same bin for a voxel, so both call these functions on the same
tiles, and are compiled without the fusion of products and sums.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from segloss_fast.ops._triton.elementary import exp, log1p_unit, log_normal, reciprocal
from segloss_fast.ops._triton.kinds import constants
from segloss_fast.ops._triton.tiles import class_pointers, load_classes, one_hot

# As numbered in csrc/lovasz.
SOFTMAX = tl.constexpr(0)
SIGMOID = tl.constexpr(1)
HINGE = tl.constexpr(2)

LARGEST = tl.constexpr(65536.0)  # from here on an error of the hinge is flagged
OFFSET = tl.constexpr(0xFFFF)
BELOW_ONE = tl.constexpr(1 - 2.0**-24)  # the largest number of float32 there is
BELOW_QUARTER = tl.constexpr(0.25 - 2.0**-26)
BELOW_LARGEST = tl.constexpr(65536 - 2.0**-8)


@constants
class Bins(NamedTuple):
    """What of the histogram the kernels are compiled for: one constant, as ``Kind`` is.

    Attributes:
        ACT: The activation.
        OCTAVES: E, of the bins.
        BITS: b, of the bins.
        ENTROPY: Whether the cross-entropy is summed, too.
    """

    ACT: int
    OCTAVES: int
    BITS: int
    ENTROPY: bool


@triton.constexpr_function
def log_tau(octaves, act):
    """Return the exponent of tau, above which bins follow the exponent of the distance."""
    return 5 - octaves if act == HINGE.value else -1 - octaves


@triton.constexpr_function
def bin_count(octaves, bits):
    """Return K."""
    return 4 * octaves << bits


@triton.constexpr_function
def power_of_two(exponent):
    """Return 2^exponent."""
    return 2.0**exponent


@triton.constexpr_function
def shifted(number, bits):
    """Return number 2^bits, an integer."""
    return number << bits


@triton.jit
def load_foreground(view, tile, block, code, x, kind: tl.constexpr):
    """Return which ``[C, V]`` are foreground."""
    if kind.DENSE and kind.C == 1:  # what load_voxels() has read
        return one_hot(tl.where(code > 0.5, 0, -1), block.c, x, True)
    elif kind.DENSE:
        pointers = class_pointers(view, tile, block.c, kind)
        value = tl.load(pointers, mask=block.mask, other=0)
        if value.dtype.is_floating():
            value = value if value.dtype == tl.float64 else value.to(tl.float32)
            return value > 0.5  # float64 as it is: rounded, it could become 0.5
        else:
            return value > 0
    else:
        return one_hot(code, block.c, x, True)


@triton.jit
def _exponentials(x, in_c, top_x):
    return tl.where(in_c, exp(x - top_x[None, :]), 0.0)


@triton.jit
def column_stats(x, in_c):
    """Return of the softmax of every voxel ``[V]``, with e = e^(x - max):

    max, the sum of the e below 1, the number of those equal to 1. Their distinction makes 1 - p
    of the most probable class accurate. A NaN counts as below 1.
    """  # noqa: D415
    top_x = tl.max(tl.where(in_c, x, float("-inf")), 0)
    rest, ones = _sums(_exponentials(x, in_c, top_x))
    return top_x, rest, ones


@triton.jit
def _sums(e):
    return tl.sum(tl.where(e == 1, 0.0, e), 0), tl.sum(tl.where(e == 1, 1.0, 0.0), 0)


@triton.jit
def wide_stats(view, tile, counts, kind: tl.constexpr):
    """Return column_stats() of all classes, in two reads."""
    top_x = tl.full(tile.lanes.shape, float("-inf"), tl.float32)
    for start in range(0, kind.C, kind.BLOCK_C):
        block, x = load_classes(view, tile, start, counts, kind)
        top_x = tl.maximum(top_x, tl.max(tl.where(block.in_c, x, float("-inf")), 0))
    rest = tl.zeros(tile.lanes.shape, tl.float32)
    ones = tl.zeros(tile.lanes.shape, tl.float32)
    for start in range(0, kind.C, kind.BLOCK_C):
        block, x = load_classes(view, tile, start, counts, kind)
        more = _sums(_exponentials(x, block.in_c, top_x))
        rest += more[0]
        ones += more[1]
    return top_x, rest, ones


@triton.jit
def activate(x, in_c, stats, ACT: tl.constexpr):
    """Return p, 1 - p, and whether the class is (one of) the most probable of a softmax."""
    if ACT == SOFTMAX:
        top_x, rest, ones = stats
        inverse = reciprocal(rest + ones)[None, :]
        e = _exponentials(x, in_c, top_x)
        is_top = e == 1
        p = e * inverse
        q = tl.where(is_top, (rest + (ones - 1))[None, :] * inverse, 1 - p)
        return p, q, is_top
    else:
        e = exp(-tl.abs(x))
        large = reciprocal(1 + e)
        small = e * large
        p = tl.where(x >= 0, large, small)
        return p, tl.where(x >= 0, small, large), x >= 0


@triton.jit
def cross_entropy(x, stats, t, ACT: tl.constexpr):
    """Return the cross-entropy of every voxel and class; of a softmax, of its foreground."""
    if ACT == SOFTMAX:
        top_x, rest, ones = stats
        # Of a nearly certain voxel all that counts is in the small sum.
        log_total = tl.where((ones == 1) & (rest <= 1), log1p_unit(rest), log_normal(rest + ones))
        log_p = (x - top_x[None, :]) - log_total[None, :]
        return tl.where(t, -log_p, 0.0)
    else:
        wrong = tl.where(t, -x, x)
        return tl.where(wrong > 0, wrong, 0.0) + log1p_unit(exp(-tl.abs(x)))


@triton.jit
def errors(x, in_c, stats, t, ACT: tl.constexpr):
    """Return the errors, and 1 - error; of a hinge the error twice."""
    if ACT == HINGE:
        m = 1 - tl.where(t, x, -x)
        m = tl.where(m <= 0, 0.0, m)  # a NaN stays
        return m, m
    else:
        p, q, _ = activate(x, in_c, stats, ACT)
        return tl.where(t, q, p), tl.where(t, p, q)


@triton.jit
def is_flagged(m, ACT: tl.constexpr):
    """Return whether an error makes the loss NaN."""
    return (m < LARGEST) == 0 if ACT == HINGE else m != m


@triton.jit
def _code(d, LOG_TAU: tl.constexpr, BITS: tl.constexpr):
    """Return the bin, counted from d = 0, and the place in it: fixed point, 16 bits of fraction.

    Below tau = 2^LOG_TAU there are 2^BITS equal bins, and as many in every octave above.
    """
    TAU: tl.constexpr = power_of_two(LOG_TAU)
    SCALE: tl.constexpr = power_of_two(BITS + 16 - LOG_TAU)
    FIRST: tl.constexpr = shifted(1, BITS + 16)
    linear = (tl.minimum(d, TAU) * SCALE).to(tl.int32)
    above = d.to(tl.int32, bitcast=True) - ((LOG_TAU + 127) << 23)
    above = above >> (7 - BITS) if BITS <= 7 else above << (BITS - 7)
    return tl.where(d < TAU, linear, above + FIRST).to(tl.uint32, bitcast=True)


@triton.jit
def _hinge_bins(m, OCTAVES: tl.constexpr, BITS: tl.constexpr):
    BELOW: tl.constexpr = shifted(OCTAVES - 4, BITS + 1)  # bins below 1
    FINE: tl.constexpr = shifted(OCTAVES + 1, BITS + 17)  # from here on four times as wide
    LOG_TAU: tl.constexpr = log_tau(OCTAVES, HINGE)
    is_below = m < 1
    code = _code(tl.where(is_below, tl.minimum(1 - m, BELOW_ONE), m - 1), LOG_TAU, BITS + 1)
    fine = tl.full([], FINE, tl.uint32)
    code = tl.where(code < fine, code, fine + ((code - fine) >> 2))
    k = (code >> 16).to(tl.int32)
    k = tl.where(is_below, BELOW - k, BELOW + 1 + k)
    return tl.where(m > 0, k, 0), (code & OFFSET).to(tl.int32)  # bin 0 is for no error


@triton.jit
def find_bins(m, other, bins: tl.constexpr):
    """Return the bin of every error, in [0, K) whatever the error, and the offset in it."""
    K: tl.constexpr = bin_count(bins.OCTAVES, bins.BITS)
    if bins.ACT == HINGE:
        return _hinge_bins(tl.where(m < LARGEST, m, BELOW_LARGEST), bins.OCTAVES, bins.BITS)
    else:
        LOG_TAU: tl.constexpr = log_tau(bins.OCTAVES, bins.ACT)
        HALF: tl.constexpr = K // 2
        e = tl.where(m < other, m, other)
        inner = e >= 0.25  # nearer to 1/2 than to the end
        d = tl.where(inner, tl.abs(0.5 - e), e)  # rounding may bring both errors above 1/2
        code = _code(tl.where(d < 0.25, d, BELOW_QUARTER), LOG_TAU, bins.BITS)  # a NaN, too
        k = (code >> 16).to(tl.int32)
        k = tl.where(inner, HALF - 1 - k, k)
        return tl.where(m < other, k, K - 1 - k), (code & OFFSET).to(tl.int32)
