"""The forward kernels: partial sums of chunks of voxels, and their sum.

One program of the first kernel takes the tiles chunk, chunk + chunks, ... of one batch item: at any
time the programs that run read neighbouring memory. Each thread adds up to BLOCK_TILES tiles in
float32; their sums are added to the program's row of partials in float64. The second kernel adds
the rows in a fixed order. There are no atomics, so that equal inputs give equal bits.
"""

import triton
import triton.language as tl

from segloss_fast.ops._triton.sums import store_flags, store_sums
from segloss_fast.ops._triton.tiles import (
    NO_WEIGHT,
    PLANES,
    SIZES,
    fold,
    load_input,
    load_target,
    load_voxels,
    load_weight,
)
from segloss_fast.ops.region_sums.triton_activations import (
    SOFTMAX,
    activate,
    needs_others,
    softmax_stats,
    uses,
)
from segloss_fast.ops.region_sums.triton_terms import (
    COUNT,
    LOGS,
    REGION,
    any_of,
    count,
    has,
    term_value,
)

# Their values must not make new kernels.
SIZES = (*SIZES, "w_bs", "w_cs", "w_s0", "w_s1", "w_s2")


@triton.jit
def _zeros(TERMS: tl.constexpr, C: tl.constexpr, LANES: tl.constexpr):
    sums = ()
    for _ in tl.static_range(count(TERMS)):
        sums = sums + (tl.zeros([C, LANES], tl.float32),)  # noqa: RUF005
    return sums


@triton.jit
def term_sums(
    sums, TERMS: tl.constexpr, in_c, p, ce, at, t, w, counts, gamma, SQUARE: tl.constexpr,
    HARD: tl.constexpr, FOLD: tl.constexpr, NEAR: tl.constexpr,
):  # fmt: skip
    """Return the sums, one per term of the set, plus those of a tile; None is an empty sum."""
    out = ()
    for k in tl.static_range(COUNT):
        if has(TERMS, k):
            value = fold(term_value(k, p, ce, at, t, w, counts, gamma, SQUARE, HARD), FOLD, NEAR)
            if sums is not None:
                value += sums[len(out)]
            # Classes that are only padding stay the constant 0, and vanish.
            out = out + (tl.where(in_c, value, 0.0),)  # noqa: RUF005
    return out


@triton.jit(do_not_specialize=SIZES)
def partial_sums(
    partials, flags,
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    t, t_bs: tl.int64, t_cs: tl.int64, t_s0: tl.int64, t_s1: tl.int64, t_s2: tl.int64,
    w, w_bs: tl.int64, w_cs: tl.int64, w_s0: tl.int64, w_s1: tl.int64, w_s2: tl.int64,
    voxels: tl.int64, n1: tl.int64, n2: tl.int64, chunks: tl.int32, ignore: tl.int64,
    gamma: tl.float32,
    C: tl.constexpr, TERMS: tl.constexpr, ACT: tl.constexpr, CE_ACT: tl.constexpr,
    SQUARE: tl.constexpr, DENSE: tl.constexpr, WEIGHT: tl.constexpr, IGNORE: tl.constexpr,
    LAYOUT: tl.constexpr, UNIT: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_V: tl.constexpr,
    CLASS_BLOCKS: tl.constexpr, FOLD: tl.constexpr, BLOCK_TILES: tl.constexpr,
):  # fmt: skip
    """Write partials ``[B * chunks, K, C]``, and flags ``[B * chunks, 2]`` of invalid labels."""
    x_view, sizes = (x, x_bs, x_cs, x_s0, x_s1, x_s2), (n1, n2)
    t_view, w_view = (t, t_bs, t_cs, t_s0, t_s1, t_s2), (w, w_bs, w_cs, w_s0, w_s1, w_s2)
    # The programs that share the classes of the same voxels follow each other.
    program = tl.program_id(0) // CLASS_BLOCKS
    chunk = program % chunks
    item = (program // chunks).to(tl.int64)
    c = tl.arange(0, BLOCK_C) + tl.program_id(0) % CLASS_BLOCKS * BLOCK_C
    in_c = c < C
    lanes = tl.arange(0, BLOCK_V)
    n = voxels.to(tl.int64) * UNIT
    tiles = tl.cdiv(n, BLOCK_V).to(tl.int32)
    NEAR: tl.constexpr = LAYOUT == PLANES and UNIT > 1
    INPUT: tl.constexpr = any_of(TERMS, REGION | LOGS)
    bad_count = tl.zeros([BLOCK_V], tl.int32)
    bad_tile = tl.full([BLOCK_V], 0x7FFFFFFF, tl.int32)
    for start in range(chunk, tiles, chunks * BLOCK_TILES):
        sums = _zeros(TERMS, BLOCK_C, BLOCK_V // FOLD)
        for tile in range(start, min(start + chunks * BLOCK_TILES, tiles), chunks):
            first = tl.cast(tile, tl.int64) * BLOCK_V
            in_v = first + lanes < n
            mask = in_c[:, None] & in_v[None, :]
            code, counts, bad = load_voxels(
                t_view, item, first, lanes, in_v, sizes, ignore, C, LAYOUT, UNIT, DENSE, IGNORE
            )
            logits = tl.zeros([BLOCK_C, BLOCK_V], tl.float32)
            if INPUT:
                logits = load_input(
                    x_view, item, c, first, lanes, mask, counts, sizes, C, LAYOUT, UNIT, IGNORE
                )
            target = load_target(
                t_view,
                code,
                logits,
                item,
                c,
                first,
                lanes,
                mask,
                sizes,
                C,
                LAYOUT,
                UNIT,
                DENSE,
                INPUT,
            )
            weight = None
            if WEIGHT != NO_WEIGHT:
                weight = load_weight(
                    w_view, item, c, first, lanes, mask, in_v, counts, sizes, C, LAYOUT, UNIT,
                    WEIGHT,
                )  # fmt: skip
            stats = None
            if uses(TERMS, ACT, CE_ACT, SOFTMAX):
                stats = softmax_stats(logits, in_c[:, None], c, needs_others(TERMS, CE_ACT))
            p, ce, at = activate(
                logits, in_c[:, None], c, target, counts, stats, TERMS, ACT, CE_ACT, not DENSE
            )
            sums = term_sums(
                sums, TERMS, in_c[:, None], p[0], ce, at, target, weight, counts[None, :], gamma,
                SQUARE, not DENSE, FOLD, NEAR,
            )  # fmt: skip
            if not DENSE or C == 1:
                bad_count += bad.to(tl.int32)
                bad_tile = tl.where(bad & (bad_tile > tile), tile, bad_tile)
        store_sums(partials, program.to(tl.int64), sums, c, in_c, start == chunk, C)
    if not DENSE or C == 1:
        store_flags(flags, program.to(tl.int64), item * n, lanes, bad_count, bad_tile, BLOCK_V)
