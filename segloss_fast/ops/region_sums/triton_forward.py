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
    Block,
    Tile,
    View,
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
    sums, in_c, maps, t, w, counts, gamma, formula: tl.constexpr, FOLD: tl.constexpr,
    NEAR: tl.constexpr,
):  # fmt: skip
    """Return the sums, one per term of the set, plus those of a tile; None is an empty sum."""
    out = ()
    for k in tl.static_range(COUNT):
        if has(formula.TERMS, k):
            value = fold(term_value(k, maps, t, w, counts, gamma, formula), FOLD, NEAR)
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
    kind: tl.constexpr, formula: tl.constexpr, BLOCK_TILES: tl.constexpr,
):  # fmt: skip
    """Write partials ``[B * chunks, K, C]``, and flags ``[B * chunks, 2]`` of invalid labels."""
    x_view, sizes = View(x, x_bs, x_cs, x_s0, x_s1, x_s2), (n1, n2)
    t_view = View(t, t_bs, t_cs, t_s0, t_s1, t_s2)
    w_view = View(w, w_bs, w_cs, w_s0, w_s1, w_s2)
    # The programs that share the classes of the same voxels follow each other.
    program = tl.program_id(0) // kind.CLASS_BLOCKS
    chunk = program % chunks
    item = (program // chunks).to(tl.int64)
    c = tl.arange(0, kind.BLOCK_C) + tl.program_id(0) % kind.CLASS_BLOCKS * kind.BLOCK_C
    in_c = (c < kind.C)[:, None]
    lanes = tl.arange(0, kind.BLOCK_V)
    n = voxels.to(tl.int64) * kind.UNIT
    tiles = tl.cdiv(n, kind.BLOCK_V).to(tl.int32)
    NEAR: tl.constexpr = kind.LAYOUT == PLANES and kind.UNIT > 1
    INPUT: tl.constexpr = any_of(formula.TERMS, REGION | LOGS)
    bad_count = tl.zeros([kind.BLOCK_V], tl.int32)
    bad_tile = tl.full([kind.BLOCK_V], 0x7FFFFFFF, tl.int32)
    for start in range(chunk, tiles, chunks * BLOCK_TILES):
        sums = _zeros(formula.TERMS, kind.BLOCK_C, kind.BLOCK_V // kind.FOLD)
        for number in range(start, min(start + chunks * BLOCK_TILES, tiles), chunks):
            first = tl.cast(number, tl.int64) * kind.BLOCK_V
            tile = Tile(item, first, lanes, first + lanes < n, sizes)
            block = Block(c, in_c, in_c & tile.exists[None, :])
            code, counts, bad = load_voxels(t_view, tile, ignore, kind)
            logits = tl.zeros([kind.BLOCK_C, kind.BLOCK_V], tl.float32)
            if INPUT:
                logits = load_input(x_view, tile, block, counts, kind)
            target = load_target(t_view, tile, block, code, logits, kind, INPUT)
            weight = None
            if kind.WEIGHT != NO_WEIGHT:
                weight = load_weight(w_view, tile, block, counts, kind)
            stats = None
            if uses(formula, SOFTMAX):
                stats = softmax_stats(logits, in_c, c, needs_others(formula))
            maps = activate(logits, block, target, counts, stats, formula)
            sums = term_sums(
                sums, in_c, maps, target, weight, counts[None, :], gamma, formula, kind.FOLD, NEAR
            )
            if not kind.DENSE or kind.C == 1:
                bad_count += bad.to(tl.int32)
                bad_tile = tl.where(bad & (bad_tile > number), number, bad_tile)
        store_sums(partials, program.to(tl.int64), sums, c, c < kind.C, start == chunk, kind.C)
    if not kind.DENSE or kind.C == 1:
        store_flags(flags, program.to(tl.int64), item * n, lanes, bad_count, bad_tile, kind.BLOCK_V)
