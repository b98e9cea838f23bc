"""Kernels of at most eight classes: all sums of a thread's voxels stay in its registers.

The forward kernel reads input, target and weight once, of weights by class all of them; the
backward kernel reads them again and writes the gradient. A thread holds all classes of its voxels:
the softmax needs no exchange, and the sum of class l of the target and class c of the prediction is
one multiply-add per voxel. Each thread adds up to BLOCK_TILES tiles in float32; their sums are
added to the program's partials in float64, and the last kernel adds those of all programs in a
fixed order. There are no atomics, so that equal inputs give equal bits.
"""

# Triton's compiler reads the annotations, and knows none for pointers and tiles.
# mypy: disable-error-code="assignment, no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from segloss_fast.ops._triton.activations import SOFTMAX, exponentials
from segloss_fast.ops._triton.elementary import reciprocal
from segloss_fast.ops._triton.sums import store_flags
from segloss_fast.ops._triton.tiles import (
    PLANES,
    SHARED_WEIGHT,
    class_pointers,
    fold,
    load_input,
    load_voxels,
    load_weight,
)
from segloss_fast.ops.confusion_sums.triton_tiles import (
    BACKWARD_SIZES,
    CLASS_WEIGHTS,
    FORWARD_SIZES,
    chain_rule,
    load_scale,
    load_values,
    probabilities,
)


@triton.jit
def _zeros(C: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr):
    sums = ()
    for _ in tl.static_range(C):
        sums = sums + (tl.zeros([ROWS, LANES], tl.float32),)  # noqa: RUF005
    return sums


@triton.jit
def _column_stats(x, in_c, ACT: tl.constexpr):
    """Return softmax_stats() of a tile that holds all classes."""
    if ACT == SOFTMAX:
        top = tl.max(tl.where(in_c, x, float("-inf")), 0)
        return top, reciprocal(tl.sum(exponentials(x, in_c, top), 0))
    else:
        return None


@triton.jit
def _load_shared(
    view, item, code, x, first, lanes, in_v, counts, sizes, C: tl.constexpr, LAYOUT: tl.constexpr,
    UNIT: tl.constexpr, DENSE: tl.constexpr, WEIGHT: tl.constexpr,
):  # fmt: skip
    """Return labels, and the weight that all classes share (or 1), ``[V]`` each.

    They are spread over the threads as the input is: a zero that is made of it is added, and
    removed by the compiler only after it has laid out the tiles.
    """
    scale = load_scale(
        view, item, code, first, lanes, in_v, counts, sizes, C, LAYOUT, UNIT, True, WEIGHT
    )
    if not DENSE:
        zero = tl.max(((x.to(tl.uint32, bitcast=True) >> 31) >> 1).to(tl.int32), 0)
        code += zero
        if WEIGHT == SHARED_WEIGHT:
            scale = (scale.to(tl.int32, bitcast=True) + zero).to(tl.float32, bitcast=True)
    return code, scale


@triton.jit
def _target_row(
    l, t_view, w_view, code, scale, item, first, lanes, in_v, sizes, C: tl.constexpr,
    LAYOUT: tl.constexpr, UNIT: tl.constexpr, DENSE: tl.constexpr, WEIGHT: tl.constexpr,
):  # fmt: skip
    """Return A_l ``[1, V]``."""
    c = tl.full([1], l, tl.int32)
    if DENSE:
        return load_values(
            t_view, w_view, scale, item, c, first, lanes, in_v[None, :], in_v, sizes, C, LAYOUT,
            UNIT, WEIGHT,
        )  # fmt: skip
    elif WEIGHT == CLASS_WEIGHTS:
        weight = load_weight(
            w_view, item, c, first, lanes, in_v[None, :], in_v, in_v, sizes, C, LAYOUT, UNIT, WEIGHT
        )
        return tl.where((code == l)[None, :], weight, 0.0)
    else:
        return tl.where(code == l, scale, 0.0)[None, :]


@triton.jit
def _store(partials, program, sums, targets, c, fresh, C: tl.constexpr):
    """Add sums and targets to the program's partials ``[C, C + 1]``, or begin fresh ones."""
    for l in tl.static_range(C):
        row = partials + (program * C + l) * (C + 1)
        before = tl.where(fresh, 0.0, tl.load(row + c, mask=c < C, other=0.0))
        tl.store(row + c, before + tl.sum(sums[l], 1).to(tl.float64), mask=c < C)
        target = tl.sum(tl.sum(targets[l], 1), 0).to(tl.float64)
        tl.store(row + C, tl.where(fresh, 0.0, tl.load(row + C)) + target)
    tl.debug_barrier()  # the next load may be another thread's


@triton.jit(do_not_specialize=FORWARD_SIZES)
def partial_sums(
    partials, flags,
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    t, t_bs: tl.int64, t_cs: tl.int64, t_s0: tl.int64, t_s1: tl.int64, t_s2: tl.int64,
    w, w_bs: tl.int64, w_cs: tl.int64, w_s0: tl.int64, w_s1: tl.int64, w_s2: tl.int64,
    voxels: tl.int64, n1: tl.int64, n2: tl.int64, chunks: tl.int32, ignore: tl.int64,
    C: tl.constexpr, ACT: tl.constexpr, DENSE: tl.constexpr, WEIGHT: tl.constexpr,
    IGNORE: tl.constexpr, LAYOUT: tl.constexpr, UNIT: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_V: tl.constexpr, FOLD: tl.constexpr, BLOCK_TILES: tl.constexpr,
):  # fmt: skip
    """Write partials ``[B * chunks, C, C + 1]``, and flags ``[B * chunks, 2]`` of invalid labels.

    A program takes the tiles chunk, chunk + chunks, ... of one item.
    """
    x_view, sizes = (x, x_bs, x_cs, x_s0, x_s1, x_s2), (n1, n2)
    t_view, w_view = (t, t_bs, t_cs, t_s0, t_s1, t_s2), (w, w_bs, w_cs, w_s0, w_s1, w_s2)
    program = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(0) % chunks
    item = program // chunks
    c = tl.arange(0, BLOCK_C)
    in_c = (c < C)[:, None]
    lanes = tl.arange(0, BLOCK_V)
    n = voxels.to(tl.int64) * UNIT
    tiles = tl.cdiv(n, BLOCK_V).to(tl.int32)
    NEAR: tl.constexpr = LAYOUT == PLANES and UNIT > 1
    bad_count = tl.zeros([BLOCK_V], tl.int32)
    bad_tile = tl.full([BLOCK_V], 0x7FFFFFFF, tl.int32)
    for start in range(chunk, tiles, chunks * BLOCK_TILES):
        sums = _zeros(C, BLOCK_C, BLOCK_V // FOLD)
        targets = _zeros(C, 1, BLOCK_V // FOLD)
        for tile in range(start, min(start + chunks * BLOCK_TILES, tiles), chunks):
            first = tl.cast(tile, tl.int64) * BLOCK_V
            in_v = first + lanes < n
            mask = in_c & in_v[None, :]
            code, counts, bad = load_voxels(
                t_view, item, first, lanes, in_v, sizes, ignore, C, LAYOUT, UNIT, DENSE, IGNORE
            )
            logits = load_input(
                x_view, item, c, first, lanes, mask, counts, sizes, C, LAYOUT, UNIT, IGNORE
            )
            code, scale = _load_shared(
                w_view, item, code, logits, first, lanes, in_v, counts, sizes, C, LAYOUT, UNIT,
                DENSE, WEIGHT,
            )  # fmt: skip
            stats = _column_stats(logits, in_c, ACT)
            p, _ = probabilities(logits, in_c, counts, stats, ACT)
            more, more_targets = (), ()
            for l in tl.static_range(C):
                row = _target_row(
                    l, t_view, w_view, code, scale, item, first, lanes, in_v, sizes, C, LAYOUT,
                    UNIT, DENSE, WEIGHT,
                )  # fmt: skip
                value = sums[l] + fold(row * p, FOLD, NEAR)
                # Classes that are only padding stay the constant 0, and vanish.
                more = more + (tl.where(in_c, value, 0.0),)  # noqa: RUF005
                more_targets = more_targets + (targets[l] + fold(row, FOLD, NEAR),)  # noqa: RUF005
            sums, targets = more, more_targets
            if not DENSE:
                bad_count += bad.to(tl.int32)
                bad_tile = tl.where(bad & (bad_tile > tile), tile, bad_tile)
        _store(partials, program, sums, targets, c, start == chunk, C)
    if not DENSE:
        store_flags(flags, program, item * n, lanes, bad_count, bad_tile, BLOCK_V)


@triton.jit(do_not_specialize=BACKWARD_SIZES)
def input_gradient(
    g, g_bs: tl.int64, g_cs: tl.int64, g_s0: tl.int64, g_s1: tl.int64, g_s2: tl.int64, table,
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    t, t_bs: tl.int64, t_cs: tl.int64, t_s0: tl.int64, t_s1: tl.int64, t_s2: tl.int64,
    w, w_bs: tl.int64, w_cs: tl.int64, w_s0: tl.int64, w_s1: tl.int64, w_s2: tl.int64,
    voxels: tl.int64, n1: tl.int64, n2: tl.int64, chunks: tl.int32, ignore: tl.int64,
    C: tl.constexpr, ACT: tl.constexpr, DENSE: tl.constexpr, WEIGHT: tl.constexpr,
    IGNORE: tl.constexpr, LAYOUT: tl.constexpr, UNIT: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the input, given ``table [B, C, C]``, that of the sums of p."""
    x_view, g_view = (x, x_bs, x_cs, x_s0, x_s1, x_s2), (g, g_bs, g_cs, g_s0, g_s1, g_s2)
    t_view, w_view = (t, t_bs, t_cs, t_s0, t_s1, t_s2), (w, w_bs, w_cs, w_s0, w_s1, w_s2)
    sizes = (n1, n2)
    chunk = tl.program_id(0) % chunks
    item = tl.program_id(0).to(tl.int64) // chunks
    c = tl.arange(0, BLOCK_C)
    in_c = (c < C)[:, None]
    lanes = tl.arange(0, BLOCK_V)
    n = voxels.to(tl.int64) * UNIT
    factors = ()
    for l in tl.static_range(C):
        factor = tl.load(table + (item * C + l) * C + c, mask=c < C, other=0.0)[:, None]
        factors = factors + (factor,)  # noqa: RUF005
    for tile in range(chunk, tl.cdiv(n, BLOCK_V).to(tl.int32), chunks):
        first = tl.cast(tile, tl.int64) * BLOCK_V
        in_v = first + lanes < n
        mask = in_c & in_v[None, :]
        code, counts, _ = load_voxels(
            t_view, item, first, lanes, in_v, sizes, ignore, C, LAYOUT, UNIT, DENSE, IGNORE
        )
        logits = load_input(
            x_view, item, c, first, lanes, mask, counts, sizes, C, LAYOUT, UNIT, IGNORE
        )
        code, scale = _load_shared(
            w_view, item, code, logits, first, lanes, in_v, counts, sizes, C, LAYOUT, UNIT, DENSE,
            WEIGHT,
        )  # fmt: skip
        stats = _column_stats(logits, in_c, ACT)
        p, slope = probabilities(logits, in_c, counts, stats, ACT)
        dp = tl.zeros([BLOCK_C, BLOCK_V], tl.float32)
        for l in tl.static_range(C):
            row = _target_row(
                l, t_view, w_view, code, scale, item, first, lanes, in_v, sizes, C, LAYOUT, UNIT,
                DENSE, WEIGHT,
            )  # fmt: skip
            dp += row * factors[l]
        dot = tl.sum(tl.where(in_c, p * dp, 0.0), 0)
        dx = chain_rule(dp, p, slope, dot, ACT)
        if not DENSE:
            dx = tl.where(counts[None, :], dx, 0.0)
        pointers = class_pointers(g_view, item, c, first, lanes, sizes, C, LAYOUT, UNIT)
        tl.store(pointers, dx.to(g.dtype.element_ty), mask=mask)
