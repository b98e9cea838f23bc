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
    Tile,
    View,
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
def _stats(view, tile, counts, OTHERS: tl.constexpr, kind: tl.constexpr):
    """Return softmax_stats() of all classes, in two reads."""
    top_x = tl.full(tile.lanes.shape, float("-inf"), tl.float32)
    second = top_x
    top = tl.full(tile.lanes.shape, NO_CLASS, tl.int32)
    for start in range(0, kind.C, kind.BLOCK_C):
        block, x = load_classes(view, tile, start, counts, kind)
        c, in_c, _ = block
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
    total = tl.zeros(tile.lanes.shape, tl.float32)
    for start in range(0, kind.C, kind.BLOCK_C):
        block, x = load_classes(view, tile, start, counts, kind)
        c, in_c, _ = block
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
    kind: tl.constexpr, formula: tl.constexpr,
):  # fmt: skip
    """Write partials ``[B * chunks, K, C]`` and flags; three reads of the input."""
    x_view, sizes = View(x, x_bs, x_cs, x_s0, x_s1, x_s2), (n1, n2)
    t_view = View(t, t_bs, t_cs, t_s0, t_s1, t_s2)
    w_view = View(w, w_bs, w_cs, w_s0, w_s1, w_s2)
    program = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(0) % chunks
    item = program // chunks
    lanes = tl.arange(0, kind.BLOCK_V)
    n = voxels.to(tl.int64) * kind.UNIT
    bad_count = tl.zeros([kind.BLOCK_V], tl.int32)
    bad_tile = tl.full([kind.BLOCK_V], 0x7FFFFFFF, tl.int32)
    for number in range(chunk, tl.cdiv(n, kind.BLOCK_V).to(tl.int32), chunks):
        first = tl.cast(number, tl.int64) * kind.BLOCK_V
        tile = Tile(item, first, lanes, first + lanes < n, sizes)
        code, counts, bad = load_voxels(t_view, tile, ignore, kind)
        stats = _stats(x_view, tile, counts, needs_others(formula), kind)
        for start in range(0, kind.C, kind.BLOCK_C):
            block, logits = load_classes(x_view, tile, start, counts, kind)
            target = load_target(t_view, tile, block, code, logits, kind, True)
            weight = None
            if kind.WEIGHT != NO_WEIGHT:
                weight = load_weight(w_view, tile, block, counts, kind)
            maps = activate(logits, block, target, counts, stats, formula)
            sums = term_sums(
                None, block.in_c, maps, target, weight, counts[None, :], gamma, formula, 1, True
            )
            store_sums(partials, program, sums, block.c, block.c < kind.C, number == chunk, kind.C)
        if not kind.DENSE:
            bad_count += bad.to(tl.int32)
            bad_tile = tl.where(bad & (bad_tile > number), number, bad_tile)
    if not kind.DENSE:
        store_flags(flags, program, item * n, lanes, bad_count, bad_tile, kind.BLOCK_V)


@triton.jit(do_not_specialize=BACKWARD_SIZES)
def input_gradient(
    g, g_bs: tl.int64, g_cs: tl.int64, g_s0: tl.int64, g_s1: tl.int64, g_s2: tl.int64,
    r, r_ks: tl.int64, r_bs: tl.int64, r_cs: tl.int64,
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    t, t_bs: tl.int64, t_cs: tl.int64, t_s0: tl.int64, t_s1: tl.int64, t_s2: tl.int64,
    w, w_bs: tl.int64, w_cs: tl.int64, w_s0: tl.int64, w_s1: tl.int64, w_s2: tl.int64,
    voxels: tl.int64, n1: tl.int64, n2: tl.int64, chunks: tl.int32, ignore: tl.int64,
    order_low: tl.int64, order_high: tl.int64, gamma: tl.float32,
    kind: tl.constexpr, formula: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the input; four reads of the input."""
    x_view = View(x, x_bs, x_cs, x_s0, x_s1, x_s2)
    g_view = View(g, g_bs, g_cs, g_s0, g_s1, g_s2)
    t_view = View(t, t_bs, t_cs, t_s0, t_s1, t_s2)
    w_view = View(w, w_bs, w_cs, w_s0, w_s1, w_s2)
    chunk = tl.program_id(0) % chunks
    item = tl.program_id(0).to(tl.int64) // chunks
    lanes, sizes = tl.arange(0, kind.BLOCK_V), (n1, n2)
    n = voxels.to(tl.int64) * kind.UNIT
    for number in range(chunk, tl.cdiv(n, kind.BLOCK_V).to(tl.int32), chunks):
        first = tl.cast(number, tl.int64) * kind.BLOCK_V
        tile = Tile(item, first, lanes, first + lanes < n, sizes)
        code, counts, _ = load_voxels(t_view, tile, ignore, kind)
        stats = _stats(x_view, tile, counts, needs_others(formula), kind)
        dot = tl.zeros([kind.BLOCK_V], tl.float32)
        top_sum = tl.zeros([kind.BLOCK_V], tl.float32)
        # The first time for the sums over the classes, the second for the gradient.
        for write in tl.static_range(2):
            for start in range(0, kind.C, kind.BLOCK_C):
                block, logits = load_classes(x_view, tile, start, counts, kind)
                c = block.c
                target = load_target(t_view, tile, block, code, logits, kind, True)
                weight = None
                if kind.WEIGHT != NO_WEIGHT:
                    weight = load_weight(w_view, tile, block, counts, kind)
                k = load_factors(
                    r, r_ks, r_bs, r_cs, item, c, c < kind.C, order_low, order_high, formula
                )
                maps = activate(logits, block, target, counts, stats, formula)
                if write == 0:
                    parts = class_sums(block, maps, stats, target, weight, k, gamma, formula)
                    dot += parts[0]
                    top_sum += parts[1]
                else:
                    sums = (dot, top_sum)
                    dx = gradient(
                        logits, block, maps, stats, target, weight, k, gamma, sums, formula
                    )
                    if kind.IGNORE:
                        dx = tl.where(counts[None, :], dx, 0.0)
                    pointers = class_pointers(g_view, tile, c, kind)
                    tl.store(pointers, dx.to(g.dtype.element_ty), mask=block.mask)
