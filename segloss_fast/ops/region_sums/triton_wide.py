"""Kernels of a softmax over more classes than a tile holds: loops over blocks of classes.

The input of a tile of voxels is read several times, each time block by block: for the maximum, for
the sum of exponentials, and for the terms; backward in addition for the sums over the classes that
the chain rule needs. The reads after the first should come from a cache.
"""

import triton
import triton.language as tl

from segloss_fast.ops._triton.sums import store_flags, store_sums
from segloss_fast.ops._triton.tiles import (
    NO_WEIGHT,
    class_pointers,
    load_classes,
    load_target,
    load_voxels,
    load_weight,
)
from segloss_fast.ops.region_sums.triton_activations import (
    NO_CLASS,
    activate,
    exponentials,
    needs_others,
    others_exponentials,
    stats_with_others,
    stats_without_others,
)
from segloss_fast.ops.region_sums.triton_backward import SIZES as BACKWARD_SIZES
from segloss_fast.ops.region_sums.triton_backward import class_sums, gradient, load_factors
from segloss_fast.ops.region_sums.triton_forward import SIZES, term_sums


@triton.jit
def _stats(
    view, item, first, lanes, in_v, counts, sizes, OTHERS: tl.constexpr, C: tl.constexpr,
    LAYOUT: tl.constexpr, UNIT: tl.constexpr, IGNORE: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return softmax_stats() of all classes, in two reads."""
    top_x = tl.full(lanes.shape, float("-inf"), tl.float32)
    second = top_x
    top = tl.full(lanes.shape, NO_CLASS, tl.int32)
    for start in range(0, C, BLOCK_C):
        c, in_c, x = load_classes(
            view, item, start, first, lanes, in_v, counts, sizes, C, LAYOUT, UNIT, IGNORE, BLOCK_C
        )
        inside = tl.where(in_c, x, float("-inf"))
        block_x = tl.max(inside, 0)
        if OTHERS:
            block_top = tl.min(tl.where(in_c & (x == block_x[None, :]), c[:, None], NO_CLASS), 0)
            rest = tl.where(c[:, None] == block_top[None, :], float("-inf"), inside)
            larger = block_x > top_x  # of equal ones the first stays
            top = tl.where(larger, block_top, top)
            runner_up = tl.where(larger, tl.maximum(top_x, tl.max(rest, 0)), block_x)
            second = tl.maximum(second, runner_up)
        top_x = tl.maximum(top_x, block_x)
    total = tl.zeros(lanes.shape, tl.float32)
    for start in range(0, C, BLOCK_C):
        c, in_c, x = load_classes(
            view, item, start, first, lanes, in_v, counts, sizes, C, LAYOUT, UNIT, IGNORE, BLOCK_C
        )
        if OTHERS:
            total += tl.sum(others_exponentials(x, in_c, c, top, second), 0)
        else:
            total += tl.sum(exponentials(x, in_c, top_x), 0)
    if OTHERS:
        return stats_with_others(top_x, top, second, total)
    else:
        return stats_without_others(top_x, total)


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
):  # fmt: skip
    """Write partials ``[B * chunks, K, C]`` and flags; three reads of the input."""
    x_view, sizes = (x, x_bs, x_cs, x_s0, x_s1, x_s2), (n1, n2)
    t_view, w_view = (t, t_bs, t_cs, t_s0, t_s1, t_s2), (w, w_bs, w_cs, w_s0, w_s1, w_s2)
    program = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(0) % chunks
    item = program // chunks
    lanes = tl.arange(0, BLOCK_V)
    n = voxels.to(tl.int64) * UNIT
    bad_count = tl.zeros([BLOCK_V], tl.int32)
    bad_tile = tl.full([BLOCK_V], 0x7FFFFFFF, tl.int32)
    for tile in range(chunk, tl.cdiv(n, BLOCK_V).to(tl.int32), chunks):
        first = tl.cast(tile, tl.int64) * BLOCK_V
        in_v = first + lanes < n
        code, counts, bad = load_voxels(
            t_view, item, first, lanes, in_v, sizes, ignore, C, LAYOUT, UNIT, DENSE, IGNORE
        )
        stats = _stats(
            x_view, item, first, lanes, in_v, counts, sizes, needs_others(TERMS, CE_ACT), C,
            LAYOUT, UNIT, IGNORE, BLOCK_C,
        )  # fmt: skip
        for start in range(0, C, BLOCK_C):
            c, in_c, logits = load_classes(
                x_view, item, start, first, lanes, in_v, counts, sizes, C, LAYOUT, UNIT, IGNORE,
                BLOCK_C,
            )  # fmt: skip
            mask = in_c & in_v[None, :]
            target = load_target(
                t_view, code, logits, item, c, first, lanes, mask, sizes, C, LAYOUT, UNIT, DENSE,
                True,
            )  # fmt: skip
            weight = None
            if WEIGHT != NO_WEIGHT:
                weight = load_weight(
                    w_view, item, c, first, lanes, mask, in_v, counts, sizes, C, LAYOUT, UNIT,
                    WEIGHT,
                )  # fmt: skip
            p, ce, at = activate(
                logits, in_c, c, target, counts, stats, TERMS, ACT, CE_ACT, not DENSE
            )
            sums = term_sums(
                None, TERMS, in_c, p[0], ce, at, target, weight, counts[None, :], gamma, SQUARE,
                not DENSE, 1, True,
            )  # fmt: skip
            store_sums(partials, program, sums, c, c < C, tile == chunk, C)
        if not DENSE:
            bad_count += bad.to(tl.int32)
            bad_tile = tl.where(bad & (bad_tile > tile), tile, bad_tile)
    if not DENSE:
        store_flags(flags, program, item * n, lanes, bad_count, bad_tile, BLOCK_V)


@triton.jit(do_not_specialize=BACKWARD_SIZES)
def input_gradient(
    g, g_bs: tl.int64, g_cs: tl.int64, g_s0: tl.int64, g_s1: tl.int64, g_s2: tl.int64,
    r, r_ks: tl.int64, r_bs: tl.int64, r_cs: tl.int64,
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    t, t_bs: tl.int64, t_cs: tl.int64, t_s0: tl.int64, t_s1: tl.int64, t_s2: tl.int64,
    w, w_bs: tl.int64, w_cs: tl.int64, w_s0: tl.int64, w_s1: tl.int64, w_s2: tl.int64,
    voxels: tl.int64, n1: tl.int64, n2: tl.int64, chunks: tl.int32, ignore: tl.int64,
    order_low: tl.int64, order_high: tl.int64, gamma: tl.float32,
    C: tl.constexpr, TERMS: tl.constexpr, ACT: tl.constexpr, CE_ACT: tl.constexpr,
    SQUARE: tl.constexpr, DENSE: tl.constexpr, WEIGHT: tl.constexpr, IGNORE: tl.constexpr,
    LAYOUT: tl.constexpr, UNIT: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the input; four reads of the input."""
    x_view, g_view = (x, x_bs, x_cs, x_s0, x_s1, x_s2), (g, g_bs, g_cs, g_s0, g_s1, g_s2)
    t_view, w_view = (t, t_bs, t_cs, t_s0, t_s1, t_s2), (w, w_bs, w_cs, w_s0, w_s1, w_s2)
    chunk = tl.program_id(0) % chunks
    item = tl.program_id(0).to(tl.int64) // chunks
    lanes, sizes = tl.arange(0, BLOCK_V), (n1, n2)
    n = voxels.to(tl.int64) * UNIT
    for tile in range(chunk, tl.cdiv(n, BLOCK_V).to(tl.int32), chunks):
        first = tl.cast(tile, tl.int64) * BLOCK_V
        in_v = first + lanes < n
        code, counts, _ = load_voxels(
            t_view, item, first, lanes, in_v, sizes, ignore, C, LAYOUT, UNIT, DENSE, IGNORE
        )
        stats = _stats(
            x_view, item, first, lanes, in_v, counts, sizes, needs_others(TERMS, CE_ACT), C,
            LAYOUT, UNIT, IGNORE, BLOCK_C,
        )  # fmt: skip
        dot = tl.zeros([BLOCK_V], tl.float32)
        top_sum = tl.zeros([BLOCK_V], tl.float32)
        # The first time for the sums over the classes, the second for the gradient.
        for write in tl.static_range(2):
            for start in range(0, C, BLOCK_C):
                c, in_c, logits = load_classes(
                    x_view, item, start, first, lanes, in_v, counts, sizes, C, LAYOUT, UNIT,
                    IGNORE, BLOCK_C,
                )  # fmt: skip
                mask = in_c & in_v[None, :]
                target = load_target(
                    t_view, code, logits, item, c, first, lanes, mask, sizes, C, LAYOUT, UNIT,
                    DENSE, True,
                )  # fmt: skip
                weight = None
                if WEIGHT != NO_WEIGHT:
                    weight = load_weight(
                        w_view, item, c, first, lanes, mask, in_v, counts, sizes, C, LAYOUT, UNIT,
                        WEIGHT,
                    )  # fmt: skip
                k = load_factors(
                    r, r_ks, r_bs, r_cs, item, c, c < C, order_low, order_high, TERMS
                )  # fmt: skip
                region, ce, at = activate(
                    logits, in_c, c, target, counts, stats, TERMS, ACT, CE_ACT, not DENSE
                )
                if write == 0:
                    parts = class_sums(
                        in_c, c, region, ce, at, stats, target, weight, k, gamma, TERMS, ACT,
                        CE_ACT, SQUARE, not DENSE,
                    )  # fmt: skip
                    dot += parts[0]
                    top_sum += parts[1]
                else:
                    dx = gradient(
                        logits, in_c, c, region, ce, at, stats, target, weight, k, gamma, dot,
                        top_sum, TERMS, ACT, CE_ACT, SQUARE, not DENSE,
                    )  # fmt: skip
                    if IGNORE:
                        dx = tl.where(counts[None, :], dx, 0.0)
                    pointers = class_pointers(g_view, item, c, first, lanes, sizes, C, LAYOUT, UNIT)
                    tl.store(pointers, dx.to(g.dtype.element_ty), mask=mask)
