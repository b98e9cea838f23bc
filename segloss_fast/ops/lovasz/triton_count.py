"""The forward kernels: a count of errors by bin.

A counter packs the number of voxels (24 bits) and the sum of their offsets (40 bits), so that one
atomic addition of integers does both: the result does not depend on their order. Programs share
the counters of several replicas, which keep them apart and far from overflow. The voxels of bin
0, most of the background of a trained network, are first added in registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from segloss_fast.ops._triton.sums import store_flags, store_sums
from segloss_fast.ops._triton.tiles import (
    PLANES,
    SIZES,
    Block,
    Tile,
    View,
    fold,
    load_classes,
    load_input,
    load_voxels,
)
from segloss_fast.ops.lovasz.triton_errors import (
    SOFTMAX,
    bin_count,
    column_stats,
    cross_entropy,
    errors,
    find_bins,
    is_flagged,
    load_foreground,
    wide_stats,
)

SIZES = (*SIZES, "images", "image_step", "replicas")
SUM_BITS = tl.constexpr(40)  # of a counter; 24 are left for the number
ONE = tl.constexpr(1 << 40)
SUM_MASK = tl.constexpr((1 << 40) - 1)
NUMBER_MASK = tl.constexpr((1 << 24) - 1)
# Of bin 0 in a register: 8 bits for the number, at most BLOCK_TILES times FOLD, 24 for the sum.
SMALL_BITS = tl.constexpr(24)
SMALL_ONE = tl.constexpr(1 << 24)
SMALL_MASK = tl.constexpr((1 << 24) - 1)


@triton.jit
def _tally(
    counters, x, in_c, t, counts, stats, bins: tl.constexpr, FOLD: tl.constexpr,
    NEAR: tl.constexpr,
):  # fmt: skip
    """Count a tile, in counters of background ``[C, 1]`` and, K further on, of foreground.

    Returns what is left, ``[C, V / FOLD]`` each: the number of flagged errors, the cross-entropy,
    and bin 0 of background and foreground.
    """
    K: tl.constexpr = bin_count(bins.OCTAVES, bins.BITS)
    counted = in_c & counts[None, :]
    m, other = errors(x, in_c, stats, t, bins.ACT)
    k, offset = find_bins(m, other, bins)
    place = k + tl.where(t, K, 0)
    tl.atomic_add(
        counters + place, offset.to(tl.int64) + ONE, mask=counted & (k != 0), sem="relaxed"
    )
    small = tl.where(counted & (k == 0), offset + SMALL_ONE, 0)
    flagged = tl.where(counted & is_flagged(m, bins.ACT), 1.0, 0.0)
    left = fold(flagged, FOLD, NEAR)
    nll = tl.zeros_like(left)
    if bins.ENTROPY:
        nll = fold(tl.where(counted, cross_entropy(x, stats, t, bins.ACT), 0.0), FOLD, NEAR)
    background = fold(tl.where(t, 0, small), FOLD, NEAR)
    return left, nll, background, fold(tl.where(t, small, 0), FOLD, NEAR)


@triton.jit
def _add_small(counters, in_c, background, foreground, K: tl.constexpr):
    """Add what was found of bin 0, ``[C, lanes]``, to the counters ``[C, 1]``."""
    for t in tl.static_range(2):
        small = (foreground if t else background).to(tl.int64)
        unpacked = (((small >> SMALL_BITS) & 0xFF) * ONE) + (small & SMALL_MASK)
        total = tl.sum(unpacked, 1)[:, None]
        tl.atomic_add(counters + t * K, total, mask=in_c & (total != 0), sem="relaxed")


@triton.jit(do_not_specialize=SIZES)
def count_errors(
    counters, partials, flags,
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    t, t_bs: tl.int64, t_cs: tl.int64, t_s0: tl.int64, t_s1: tl.int64, t_s2: tl.int64,
    voxels: tl.int64, n1: tl.int64, n2: tl.int64, chunks: tl.int32, ignore: tl.int64,
    images: tl.int64, image_step: tl.int64, replicas: tl.int32,
    kind: tl.constexpr, bins: tl.constexpr, BLOCK_TILES: tl.constexpr,
):  # fmt: skip
    """Add to counters ``[replicas, I, C, 2, K]``; write partials ``[B * chunks, 2, C]``, flags."""
    x_view, sizes = View(x, x_bs, x_cs, x_s0, x_s1, x_s2), (n1, n2)
    t_view = View(t, t_bs, t_cs, t_s0, t_s1, t_s2)
    K: tl.constexpr = bin_count(bins.OCTAVES, bins.BITS)
    NEAR: tl.constexpr = kind.LAYOUT == PLANES and kind.UNIT > 1
    LANES: tl.constexpr = kind.BLOCK_V // kind.FOLD
    program = tl.program_id(0) // kind.CLASS_BLOCKS
    chunk = program % chunks
    item = (program // chunks).to(tl.int64)
    c = tl.arange(0, kind.BLOCK_C) + tl.program_id(0) % kind.CLASS_BLOCKS * kind.BLOCK_C
    in_c = (c < kind.C)[:, None]
    group = (program % replicas).to(tl.int64) * images + item * image_step
    own = counters + ((group * kind.C + c) * (2 * K))[:, None]
    lanes = tl.arange(0, kind.BLOCK_V)
    n = voxels.to(tl.int64) * kind.UNIT
    tiles = tl.cdiv(n, kind.BLOCK_V).to(tl.int32)
    bad_count = tl.zeros([kind.BLOCK_V], tl.int32)
    bad_tile = tl.full([kind.BLOCK_V], 0x7FFFFFFF, tl.int32)
    for start in range(chunk, tiles, chunks * BLOCK_TILES):
        flagged = tl.zeros([kind.BLOCK_C, LANES], tl.float32)
        nll = tl.zeros([kind.BLOCK_C, LANES], tl.float32)
        background = tl.zeros([kind.BLOCK_C, LANES], tl.int32)
        foreground = tl.zeros([kind.BLOCK_C, LANES], tl.int32)
        for number in range(start, min(start + chunks * BLOCK_TILES, tiles), chunks):
            first = tl.cast(number, tl.int64) * kind.BLOCK_V
            tile = Tile(item, first, lanes, first + lanes < n, sizes)
            block = Block(c, in_c, in_c & tile.exists[None, :])
            code, counts, bad = load_voxels(t_view, tile, ignore, kind)
            logits = load_input(x_view, tile, block, counts, kind)
            is_fg = load_foreground(t_view, tile, block, code, logits, kind)
            stats = None
            if bins.ACT == SOFTMAX:
                stats = column_stats(logits, in_c)
            more = _tally(own, logits, in_c, is_fg, counts, stats, bins, kind.FOLD, NEAR)
            flagged += more[0]
            nll += more[1]
            background += more[2]
            foreground += more[3]
            if not kind.DENSE or kind.C == 1:
                bad_count += bad.to(tl.int32)
                bad_tile = tl.where(bad & (bad_tile > number), number, bad_tile)
        _add_small(own, in_c, background, foreground, K)
        store_sums(
            partials, program.to(tl.int64), (flagged, nll), c, c < kind.C, start == chunk, kind.C
        )
    if not kind.DENSE or kind.C == 1:
        store_flags(flags, program.to(tl.int64), item * n, lanes, bad_count, bad_tile, kind.BLOCK_V)


@triton.jit(do_not_specialize=SIZES)
def count_errors_wide(
    counters, partials, flags,
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    t, t_bs: tl.int64, t_cs: tl.int64, t_s0: tl.int64, t_s1: tl.int64, t_s2: tl.int64,
    voxels: tl.int64, n1: tl.int64, n2: tl.int64, chunks: tl.int32, ignore: tl.int64,
    images: tl.int64, image_step: tl.int64, replicas: tl.int32,
    kind: tl.constexpr, bins: tl.constexpr,
):  # fmt: skip
    """Do the same for a softmax of more classes than a tile holds; three reads of the input."""
    x_view, sizes = View(x, x_bs, x_cs, x_s0, x_s1, x_s2), (n1, n2)
    t_view = View(t, t_bs, t_cs, t_s0, t_s1, t_s2)
    K: tl.constexpr = bin_count(bins.OCTAVES, bins.BITS)
    program = tl.program_id(0)
    chunk = program % chunks
    item = (program // chunks).to(tl.int64)
    group = (program % replicas).to(tl.int64) * images + item * image_step
    lanes = tl.arange(0, kind.BLOCK_V)
    n = voxels.to(tl.int64) * kind.UNIT
    bad_count = tl.zeros([kind.BLOCK_V], tl.int32)
    bad_tile = tl.full([kind.BLOCK_V], 0x7FFFFFFF, tl.int32)
    for number in range(chunk, tl.cdiv(n, kind.BLOCK_V).to(tl.int32), chunks):
        first = tl.cast(number, tl.int64) * kind.BLOCK_V
        tile = Tile(item, first, lanes, first + lanes < n, sizes)
        code, counts, bad = load_voxels(t_view, tile, ignore, kind)
        stats = wide_stats(x_view, tile, counts, kind)
        for begin in range(0, kind.C, kind.BLOCK_C):
            block, logits = load_classes(x_view, tile, begin, counts, kind)
            c, in_c = block.c, block.in_c
            is_fg = load_foreground(t_view, tile, block, code, logits, kind)
            own = counters + ((group * kind.C + c) * (2 * K))[:, None]
            left = _tally(own, logits, in_c, is_fg, counts, stats, bins, 1, True)
            _add_small(own, in_c, left[2], left[3], K)
            sums = (left[0], left[1])
            store_sums(partials, program.to(tl.int64), sums, c, c < kind.C, number == chunk, kind.C)
        if not kind.DENSE:
            bad_count += bad.to(tl.int32)
            bad_tile = tl.where(bad & (bad_tile > number), number, bad_tile)
    if not kind.DENSE:
        store_flags(flags, program.to(tl.int64), item * n, lanes, bad_count, bad_tile, kind.BLOCK_V)


@triton.jit(do_not_specialize=("size", "replicas"))
def add_replicas(counts, counters, size: tl.int64, replicas: tl.int32, BLOCK: tl.constexpr):
    """Write counts ``[2, size]``, numbers and sums of offsets, of counters ``[replicas, size]``."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    number = tl.zeros([BLOCK], tl.int64)
    offsets = tl.zeros([BLOCK], tl.int64)
    for replica in range(replicas):
        packed = tl.load(counters + tl.cast(replica, tl.int64) * size + at, mask=inside, other=0)
        number += (packed >> SUM_BITS) & NUMBER_MASK
        offsets += packed & SUM_MASK
    tl.store(counts + at, number, mask=inside)
    tl.store(counts + size + at, offsets, mask=inside)
