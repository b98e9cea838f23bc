"""The Triton kernel that writes the map of cross-entropies, as keys, and counts their first digit.

A key is an integer in the order of the float32 values, NaN the largest; voxels that do not count
have a smaller one than all that do. Keys are searched by digits of eight bits, from the highest on:
see triton_kernels.py.

A program takes the tiles chunk, chunk + chunks, ... of an item, all classes of each, in blocks of
classes where a tile does not hold them. Of a softmax and class indices one read of the input is
enough for any number of classes: the sum of exponentials is rescaled when a block has a larger
logit. A softmax of values needs a second read where a tile does not hold all classes.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from segloss_fast.ops._triton.activations import (
    SIGMOID,
    SOFTMAX,
    probabilities,
    sigmoid,
)
from segloss_fast.ops._triton.elementary import exp, log_normal
from segloss_fast.ops._triton.kinds import constants
from segloss_fast.ops._triton.tiles import (
    NO_WEIGHT,
    Block,
    Tile,
    View,
    load_classes,
    load_target,
    load_voxels,
    load_weight,
)
from segloss_fast.ops._triton.tiles import SIZES as TILE_SIZES

SIZES = (*TILE_SIZES, "w_bs", "w_cs", "w_s0", "w_s1", "w_s2", "first_class")
DIGITS = tl.constexpr(256)
SIGN = tl.constexpr(128)  # what a first digit, which is signed, is counted from
SMALLEST = tl.constexpr(-(1 << 31))
LARGEST = tl.constexpr((1 << 31) - 1)


@constants
class Entropy(NamedTuple):
    """Which cross-entropy the kernel is compiled for: one constant, as ``Kind`` is.

    Attributes:
        ACT: The activation.
        CATEGORICAL: Whether it is that of one of the classes, not of each.
        SCALED: Whether there are class weights.
    """

    ACT: int
    CATEGORICAL: bool
    SCALED: bool


@triton.jit
def _keys(value, counts):
    """Return the keys of cross-entropies; that of what does not count is below -infinity's."""
    bits = value.to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, bits ^ LARGEST, bits)
    key = tl.where(value == 0, 0, key)  # -0 is as large as 0
    key = tl.where(value == value, key, LARGEST)
    return tl.where(counts, key, SMALLEST)


@triton.jit
def _weights(view, tile, block, counts, kind: tl.constexpr):
    """Return the voxel weights, ``[1, V]`` or ``[C, V]``; 1 where there are none."""
    if kind.WEIGHT == NO_WEIGHT:
        return tl.full([1, tile.lanes.shape[0]], 1.0, tl.float32)
    else:
        return load_weight(view, tile, block, counts, kind)


@triton.jit
def _softmax(views, tile, code, counts, kind: tl.constexpr):
    """Return, per voxel ``[V]``: max, log of the sum of e^(x - max), and for class indices log p.

    The last is that of the voxel's own class, and comes with its weight; of values nobody reads
    the two.
    """
    x_view, t_view, w_view = views
    top = tl.full(tile.lanes.shape, float("-inf"), tl.float32)
    total = tl.zeros(tile.lanes.shape, tl.float32)
    own = tl.zeros(tile.lanes.shape, tl.float32)
    weight = tl.zeros(tile.lanes.shape, tl.float32)
    for start in range(0, kind.C, kind.BLOCK_C):
        block, x = load_classes(x_view, tile, start, counts, kind)
        c, in_c, mask = block
        larger = tl.maximum(top, tl.max(tl.where(in_c, x, float("-inf")), 0))
        base = tl.where(larger == float("-inf"), 0.0, larger)
        total *= tl.where(top == float("-inf"), 0.0, exp(top - base))
        total += tl.sum(tl.where(in_c, exp(x - base[None, :]), 0.0), 0)
        top = larger
        if not kind.DENSE:
            t = load_target(t_view, tile, block, code, x, kind, True)
            w = _weights(w_view, tile, Block(c, in_c, mask & t), counts, kind)
            own += tl.sum(tl.where(t, x, 0.0), 0)
            weight += tl.sum(tl.where(t, w, 0.0), 0)
    # Where the maximum is infinite all is NaN, as the softmax is: x - max, if not the sum.
    log_total = log_normal(total)
    return top, log_total, (own - top) - log_total, weight


@triton.jit
def _all_classes(
    views, tile, code, class_weight, first_class, top, log_total, counts, kind: tl.constexpr,
    entropy: tl.constexpr,
):  # fmt: skip
    """Return the sum over all classes, and whether any of them has a share."""
    x_view, t_view, w_view = views
    CATEGORICAL: tl.constexpr = entropy.CATEGORICAL
    loss = tl.zeros(tile.lanes.shape, tl.float32)
    shares = tl.zeros(tile.lanes.shape, tl.int32)
    for start in range(0, kind.C, kind.BLOCK_C):
        block, x = load_classes(x_view, tile, start, counts, kind)
        c = block.c
        t = load_target(t_view, tile, block, code, x, kind, True)
        w = _weights(w_view, tile, block, counts, kind)
        if entropy.ACT == SOFTMAX:
            log_p = (x - top[None, :]) - log_total[None, :]
            log_q = log_p  # nobody reads it
        elif entropy.ACT == SIGMOID:
            _, _, log_p, log_q = sigmoid(x, counts[None, :])
        else:
            _, _, log_p, log_q = probabilities(x)
        if kind.DENSE:
            each = tl.where(t == 0, 0.0, -t * log_p)
            if not CATEGORICAL:
                each += tl.where(t == 1, 0.0, (t - 1) * log_q)
            share = w * t if CATEGORICAL else w + tl.zeros_like(t)
        else:
            each = tl.where(t, -log_p, 0.0 if CATEGORICAL else -log_q)
            share = tl.where(t, w, 0.0) if CATEGORICAL else w + tl.zeros_like(x)
        if entropy.SCALED:
            v = tl.load(class_weight + c, mask=c < kind.C, other=0).to(tl.float32)
            w = v[:, None] * w
        has_share = block.mask & counts[None, :] & (c >= first_class)[:, None] & (share != 0)
        loss += tl.sum(tl.where(has_share, w * each, 0.0), 0)
        shares |= tl.max(has_share.to(tl.int32), 0)
    return loss, shares > 0


@triton.jit(do_not_specialize=SIZES)
def cross_entropies(
    keys, counters, class_weight,
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    t, t_bs: tl.int64, t_cs: tl.int64, t_s0: tl.int64, t_s1: tl.int64, t_s2: tl.int64,
    w, w_bs: tl.int64, w_cs: tl.int64, w_s0: tl.int64, w_s1: tl.int64, w_s2: tl.int64,
    voxels: tl.int64, n1: tl.int64, n2: tl.int64, chunks: tl.int32, ignore: tl.int64,
    first_class: tl.int32,
    kind: tl.constexpr, entropy: tl.constexpr,
):  # fmt: skip
    """Write keys ``[B, voxels]``; add the first digits of those that count to counters."""
    views = (
        View(x, x_bs, x_cs, x_s0, x_s1, x_s2),
        View(t, t_bs, t_cs, t_s0, t_s1, t_s2),
        View(w, w_bs, w_cs, w_s0, w_s1, w_s2),
    )
    sizes = (n1, n2)
    chunk = tl.program_id(0) % chunks
    item = (tl.program_id(0) // chunks).to(tl.int64)
    lanes = tl.arange(0, kind.BLOCK_V)
    n = voxels.to(tl.int64) * kind.UNIT
    found = tl.zeros([DIGITS], tl.int32)
    for number in range(chunk, tl.cdiv(n, kind.BLOCK_V).to(tl.int32), chunks):
        first = tl.cast(number, tl.int64) * kind.BLOCK_V
        tile = Tile(item, first, lanes, first + lanes < n, sizes)
        code, counts, _ = load_voxels(views[1], tile, ignore, kind)
        top = lanes.to(tl.float32)  # nobody reads the two
        log_total = top
        if entropy.ACT == SOFTMAX:
            top, log_total, log_p, weight = _softmax(views, tile, code, counts, kind)
        if entropy.ACT == SOFTMAX and not kind.DENSE:
            counted = tile.exists & (code >= first_class) & (weight != 0)
            if entropy.SCALED:
                weight *= tl.load(class_weight + code, mask=code >= 0, other=0).to(tl.float32)
            loss = weight * -log_p
        else:
            loss, counted = _all_classes(
                views, tile, code, class_weight, first_class, top, log_total, counts, kind, entropy
            )
        key = _keys(loss, counted)
        tl.store(keys + item * n + first + lanes, key, mask=tile.exists)
        found += tl.histogram((key >> 24) + SIGN, DIGITS, mask=counted)
    digits = tl.arange(0, DIGITS)
    tl.atomic_add(counters + digits, found.to(tl.int64), mask=found > 0, sem="relaxed")
