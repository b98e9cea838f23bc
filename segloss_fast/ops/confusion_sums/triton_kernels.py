"""Kernels of at most eight classes: all sums of a thread's voxels stay in its registers.

The forward kernel reads input, target and weight once, of weights by class all of them; the
backward kernel reads them again and writes the gradient. A thread holds all classes of its voxels:
the softmax needs no exchange, and the sum of class l of the target and class c of the prediction is
one multiply-add per voxel. Each thread adds up to BLOCK_TILES tiles in float32; their sums are
added to the program's partials in float64, and the last kernel adds those of all programs in a
fixed order. There are no atomics, so that equal inputs give equal bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from segloss_fast.ops._triton.activations import SOFTMAX, exponentials
from segloss_fast.ops._triton.elementary import reciprocal
from segloss_fast.ops._triton.sums import store_flags
from segloss_fast.ops._triton.tiles import (
    PLANES,
    SHARED_WEIGHT,
    Block,
    Tile,
    View,
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
def _load_shared(view, tile, code, x, counts, kind: tl.constexpr):
    """Return labels, and the weight that all classes share (or 1), ``[V]`` each.

    They are spread over the threads as the input is: a zero that is made of it is added, and
    removed by the compiler only after it has laid out the tiles.
    """
    scale = load_scale(view, tile, code, counts, True, kind)
    if not kind.DENSE:
        zero = tl.max(((x.to(tl.uint32, bitcast=True) >> 31) >> 1).to(tl.int32), 0)
        code += zero
        if kind.WEIGHT == SHARED_WEIGHT:
            scale = (scale.to(tl.int32, bitcast=True) + zero).to(tl.float32, bitcast=True)
    return code, scale


@triton.jit
def _target_row(l, t_view, w_view, tile, code, scale, kind: tl.constexpr):
    """Return A_l ``[1, V]``."""
    in_v = tile.exists[None, :]
    block = Block(tl.full([1], l, tl.int32), in_v, in_v)
    if kind.DENSE:
        return load_values(t_view, w_view, tile, block, scale, kind)
    elif kind.WEIGHT == CLASS_WEIGHTS:
        weight = load_weight(w_view, tile, block, tile.exists, kind)
        return tl.where((code == l)[None, :], weight, 0.0)
    else:
        return tl.where(code == l, scale, 0.0)[None, :]


@triton.jit
def _store(partials, program, sums, targets, c, fresh, C: tl.constexpr):
    """Add sums and targets to the program's partials ``[C, C + 1]``, or begin fresh ones."""
    for l in tl.static_range(C):
        row = partials + (program * C + l) * (C + 1)
        # Of fresh ones nothing is read: they have no values yet.
        before = tl.load(row + c, mask=(c < C) & (not fresh), other=0.0)
        tl.store(row + c, before + tl.sum(sums[l], 1).to(tl.float64), mask=c < C)
        target = tl.sum(tl.sum(targets[l], 1), 0).to(tl.float64)
        tl.store(row + C, tl.load(row + C, mask=not fresh, other=0.0) + target)
    tl.debug_barrier()  # the next load may be another thread's


@triton.jit(do_not_specialize=FORWARD_SIZES)
def partial_sums(
    partials, flags,
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    t, t_bs: tl.int64, t_cs: tl.int64, t_s0: tl.int64, t_s1: tl.int64, t_s2: tl.int64,
    w, w_bs: tl.int64, w_cs: tl.int64, w_s0: tl.int64, w_s1: tl.int64, w_s2: tl.int64,
    voxels: tl.int64, n1: tl.int64, n2: tl.int64, chunks: tl.int32, ignore: tl.int64,
    kind: tl.constexpr, ACT: tl.constexpr, BLOCK_TILES: tl.constexpr,
):  # fmt: skip
    """Write partials ``[B * chunks, C, C + 1]``, and flags ``[B * chunks, 2]`` of invalid labels.

    A program takes the tiles chunk, chunk + chunks, ... of one item.
    """
    x_view, sizes = View(x, x_bs, x_cs, x_s0, x_s1, x_s2), (n1, n2)
    t_view = View(t, t_bs, t_cs, t_s0, t_s1, t_s2)
    w_view = View(w, w_bs, w_cs, w_s0, w_s1, w_s2)
    program = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(0) % chunks
    item = program // chunks
    c = tl.arange(0, kind.BLOCK_C)
    in_c = (c < kind.C)[:, None]
    lanes = tl.arange(0, kind.BLOCK_V)
    n = voxels.to(tl.int64) * kind.UNIT
    tiles = tl.cdiv(n, kind.BLOCK_V).to(tl.int32)
    NEAR: tl.constexpr = kind.LAYOUT == PLANES and kind.UNIT > 1
    bad_count = tl.zeros([kind.BLOCK_V], tl.int32)
    bad_tile = tl.full([kind.BLOCK_V], 0x7FFFFFFF, tl.int32)
    for start in range(chunk, tiles, chunks * BLOCK_TILES):
        sums = _zeros(kind.C, kind.BLOCK_C, kind.BLOCK_V // kind.FOLD)
        targets = _zeros(kind.C, 1, kind.BLOCK_V // kind.FOLD)
        for number in range(start, min(start + chunks * BLOCK_TILES, tiles), chunks):
            first = tl.cast(number, tl.int64) * kind.BLOCK_V
            tile = Tile(item, first, lanes, first + lanes < n, sizes)
            block = Block(c, in_c, in_c & tile.exists[None, :])
            code, counts, bad = load_voxels(t_view, tile, ignore, kind)
            logits = load_input(x_view, tile, block, counts, kind)
            code, scale = _load_shared(w_view, tile, code, logits, counts, kind)
            stats = _column_stats(logits, in_c, ACT)
            p, _ = probabilities(logits, in_c, counts, stats, ACT)
            more, more_targets = (), ()
            for l in tl.static_range(kind.C):
                row = _target_row(l, t_view, w_view, tile, code, scale, kind)
                value = sums[l] + fold(row * p, kind.FOLD, NEAR)
                # Classes that are only padding stay the constant 0, and vanish.
                more = more + (tl.where(in_c, value, 0.0),)  # noqa: RUF005
                total = targets[l] + fold(row, kind.FOLD, NEAR)
                more_targets = more_targets + (total,)  # noqa: RUF005
            sums, targets = more, more_targets
            if not kind.DENSE:
                bad_count += bad.to(tl.int32)
                bad_tile = tl.where(bad & (bad_tile > number), number, bad_tile)
        _store(partials, program, sums, targets, c, start == chunk, kind.C)
    if not kind.DENSE:
        store_flags(flags, program, item * n, lanes, bad_count, bad_tile, kind.BLOCK_V)


@triton.jit(do_not_specialize=BACKWARD_SIZES)
def input_gradient(
    g, g_bs: tl.int64, g_cs: tl.int64, g_s0: tl.int64, g_s1: tl.int64, g_s2: tl.int64, table,
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    t, t_bs: tl.int64, t_cs: tl.int64, t_s0: tl.int64, t_s1: tl.int64, t_s2: tl.int64,
    w, w_bs: tl.int64, w_cs: tl.int64, w_s0: tl.int64, w_s1: tl.int64, w_s2: tl.int64,
    voxels: tl.int64, n1: tl.int64, n2: tl.int64, chunks: tl.int32, ignore: tl.int64,
    kind: tl.constexpr, ACT: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the input, given ``table [B, C, C]``, that of the sums of p."""
    x_view = View(x, x_bs, x_cs, x_s0, x_s1, x_s2)
    g_view = View(g, g_bs, g_cs, g_s0, g_s1, g_s2)
    t_view = View(t, t_bs, t_cs, t_s0, t_s1, t_s2)
    w_view = View(w, w_bs, w_cs, w_s0, w_s1, w_s2)
    sizes = (n1, n2)
    chunk = tl.program_id(0) % chunks
    item = tl.program_id(0).to(tl.int64) // chunks
    c = tl.arange(0, kind.BLOCK_C)
    in_c = (c < kind.C)[:, None]
    lanes = tl.arange(0, kind.BLOCK_V)
    n = voxels.to(tl.int64) * kind.UNIT
    factors = ()
    for l in tl.static_range(kind.C):
        row = table + (item * kind.C + l) * kind.C
        factor = tl.load(row + c, mask=c < kind.C, other=0.0)[:, None]
        factors = factors + (factor,)  # noqa: RUF005
    for number in range(chunk, tl.cdiv(n, kind.BLOCK_V).to(tl.int32), chunks):
        first = tl.cast(number, tl.int64) * kind.BLOCK_V
        tile = Tile(item, first, lanes, first + lanes < n, sizes)
        block = Block(c, in_c, in_c & tile.exists[None, :])
        code, counts, _ = load_voxels(t_view, tile, ignore, kind)
        logits = load_input(x_view, tile, block, counts, kind)
        code, scale = _load_shared(w_view, tile, code, logits, counts, kind)
        stats = _column_stats(logits, in_c, ACT)
        p, slope = probabilities(logits, in_c, counts, stats, ACT)
        dp = tl.zeros([kind.BLOCK_C, kind.BLOCK_V], tl.float32)
        for l in tl.static_range(kind.C):
            dp += _target_row(l, t_view, w_view, tile, code, scale, kind) * factors[l]
        dot = tl.sum(tl.where(in_c, p * dp, 0.0), 0)
        dx = chain_rule(dp, p, slope, dot, ACT)
        if not kind.DENSE:
            dx = tl.where(counts[None, :], dx, 0.0)
        pointers = class_pointers(g_view, tile, c, kind)
        tl.store(pointers, dx.to(g.dtype.element_ty), mask=block.mask)
