"""Kernels of more than eight classes: the sums are matrix products on the tensor cores.

``sums = A p^T`` over the voxels of a tile. The factors are cut into up to three bfloat16 parts of 8
bits each, whose products are exact, and the products of parts that matter are added up in float32,
which for 0 and 1 as A are three. Tensor cores round sums towards 0, so theirs are those of one tile
only; up to BLOCK_TILES tiles are then added in float32, and their sums in float64 to the program's
partials. There are no atomics.

Up to 128 classes a tile holds all of them. Input, target and weight are read once by the forward
kernel (twice the input of more than 64 classes with a dense target) and once by the backward kernel
(twice a dense target of more than 32 classes, for the softmax's sum and for the gradient). Of more
classes the forward kernel has a program for every 64 of the target and every 64 of the prediction,
each of which reads all classes for the softmax, and its own again; the backward kernel reads all
classes three times. These reads come from a cache in part only.
"""

from __future__ import annotations

import triton
import triton.language as tl

from segloss_fast.ops._triton.activations import SOFTMAX
from segloss_fast.ops._triton.elementary import INTERPRETED
from segloss_fast.ops._triton.sums import store_flags
from segloss_fast.ops._triton.tiles import (
    Block,
    Tile,
    View,
    class_pointers,
    load_classes,
    load_voxels,
    one_hot,
)
from segloss_fast.ops.confusion_sums.triton_tiles import (
    BACKWARD_SIZES,
    FORWARD_SIZES,
    chain_rule,
    load_scale,
    load_values,
    probabilities,
    softmax_stats,
)


@triton.jit
def _parts(x):
    """Return float32 as a sum of three bfloat16: 24 bits, however they are rounded."""
    high = x.to(tl.bfloat16)
    rest = x - high.to(tl.float32)
    middle = rest.to(tl.bfloat16)
    return high, middle, (rest - middle.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def _add_product(sums, a, b):
    """Add a matrix product of bfloat16, which the interpreter would multiply as integers."""
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), sums, input_precision="ieee")
    else:
        return tl.dot(a, b, sums)


@triton.jit
def _product(a, b, EXACT: tl.constexpr):
    """Return the matrix product, smallest parts first. EXACT: ``a`` holds 0 and 1 only."""
    b0, b1, b2 = _parts(b)
    sums = tl.zeros([a.shape[0], b.shape[1]], tl.float32)
    if EXACT:
        a0 = a.to(tl.bfloat16)
        sums = _add_product(sums, a0, b2)
    else:
        a0, a1, a2 = _parts(a)
        sums = _add_product(sums, a0, b2)
        sums = _add_product(sums, a1, b1)
        sums = _add_product(sums, a2, b0)
        sums = _add_product(sums, a1, b0)
    sums = _add_product(sums, a0, b1)
    return _add_product(sums, a0, b0)


@triton.jit
def _classes(tile, l, kind: tl.constexpr):
    """Return the block of these classes of the target."""
    in_l = (l < kind.C)[:, None]
    return Block(l, in_l, in_l & tile.exists[None, :])


@triton.jit
def _store(partials, program, sums, targets, l, c, fresh, C: tl.constexpr):
    """Add sums and, with the first classes of p, targets to the partials ``[C, C + 1]``."""
    rows = partials + program * (C * (C + 1)) + l * (C + 1)
    pointers = rows[:, None] + c[None, :]
    mask = (l < C)[:, None] & (c < C)[None, :]
    # Of fresh ones nothing is read: they have no values yet.
    before = tl.load(pointers, mask=mask & (not fresh), other=0.0)
    tl.store(pointers, before + sums.to(tl.float64), mask=mask)
    if tl.min(c, 0) == 0:
        earlier = tl.load(rows + C, mask=(l < C) & (not fresh), other=0.0)
        tl.store(rows + C, earlier + tl.sum(targets, 1).to(tl.float64), mask=l < C)
    tl.debug_barrier()  # the next load may be another thread's


@triton.jit(do_not_specialize=FORWARD_SIZES)
def partial_sums(
    partials, flags,
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    t, t_bs: tl.int64, t_cs: tl.int64, t_s0: tl.int64, t_s1: tl.int64, t_s2: tl.int64,
    w, w_bs: tl.int64, w_cs: tl.int64, w_s0: tl.int64, w_s1: tl.int64, w_s2: tl.int64,
    voxels: tl.int64, n1: tl.int64, n2: tl.int64, chunks: tl.int32, ignore: tl.int64,
    kind: tl.constexpr, ACT: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_TILES: tl.constexpr,
):  # fmt: skip
    """Write partials ``[B * chunks, C, C + 1]``, and flags ``[B * chunks, 2]`` of invalid labels.

    The programs of a chunk, one per block of the target's and of the prediction's classes, follow
    each other; all write the same flags.
    """
    x_view, sizes = View(x, x_bs, x_cs, x_s0, x_s1, x_s2), (n1, n2)
    t_view = View(t, t_bs, t_cs, t_s0, t_s1, t_s2)
    w_view = View(w, w_bs, w_cs, w_s0, w_s1, w_s2)
    COLUMNS: tl.constexpr = (kind.C + kind.BLOCK_C - 1) // kind.BLOCK_C
    BLOCKS: tl.constexpr = COLUMNS * ((kind.C + BLOCK_L - 1) // BLOCK_L)
    place = tl.program_id(0) % BLOCKS
    begin = place % COLUMNS * kind.BLOCK_C
    program = (tl.program_id(0) // BLOCKS).to(tl.int64)
    chunk = (program % chunks).to(tl.int32)
    item = program // chunks
    l = tl.arange(0, BLOCK_L) + place // COLUMNS * BLOCK_L
    c = tl.arange(0, kind.BLOCK_C) + begin
    lanes = tl.arange(0, kind.BLOCK_V)
    n = voxels.to(tl.int64) * kind.UNIT
    tiles = tl.cdiv(n, kind.BLOCK_V).to(tl.int32)
    bad_count = tl.zeros([kind.BLOCK_V], tl.int32)
    bad_tile = tl.full([kind.BLOCK_V], 0x7FFFFFFF, tl.int32)
    for start in range(chunk, tiles, chunks * BLOCK_TILES):
        sums = tl.zeros([BLOCK_L, kind.BLOCK_C], tl.float32)
        targets = tl.zeros([BLOCK_L, kind.BLOCK_V], tl.float32)
        for number in range(start, min(start + chunks * BLOCK_TILES, tiles), chunks):
            first = tl.cast(number, tl.int64) * kind.BLOCK_V
            tile = Tile(item, first, lanes, first + lanes < n, sizes)
            code, counts, bad = load_voxels(t_view, tile, ignore, kind)
            scale = load_scale(w_view, tile, code, counts, kind.DENSE, kind)
            stats = softmax_stats(x_view, tile, counts, ACT, kind)
            block, logits = load_classes(x_view, tile, begin, counts, kind)
            p, _ = probabilities(logits, block.in_c, counts, stats, ACT)
            if kind.DENSE:
                target = load_values(t_view, w_view, tile, _classes(tile, l, kind), scale, kind)
                sums += _product(target, tl.trans(p), False)
                targets += target
            else:
                is_class = one_hot(code, l, logits, BLOCK_L == kind.BLOCK_C)
                sums += _product(is_class.to(tl.float32), tl.trans(p * scale[None, :]), True)
                targets += tl.where(is_class, scale[None, :], 0.0)
            if not kind.DENSE:
                bad_count += bad.to(tl.int32)
                bad_tile = tl.where(bad & (bad_tile > number), number, bad_tile)
        _store(partials, program, sums, targets, l, c, start == chunk, kind.C)
    if not kind.DENSE:
        store_flags(flags, program, item * n, lanes, bad_count, bad_tile, kind.BLOCK_V)


@triton.jit
def _look_up(table, code, c, C: tl.constexpr):
    """Return G[label, c] ``[C, V]`` of the item's table, 0 where a voxel has no class."""
    has_class = (code >= 0)[None, :]
    row = tl.where(code >= 0, code, 0) * C
    return tl.load(
        table + (row[None, :] + c[:, None]), mask=(c < C)[:, None] & has_class, other=0.0
    )


@triton.jit
def _load_factors(table, c, l, C: tl.constexpr):
    """Return G[l, c] as ``[C, L]``."""
    mask = (c < C)[:, None] & (l < C)[None, :]
    return tl.load(table + (l[None, :] * C + c[:, None]), mask=mask, other=0.0)


@triton.jit(do_not_specialize=BACKWARD_SIZES)
def input_gradient(
    g, g_bs: tl.int64, g_cs: tl.int64, g_s0: tl.int64, g_s1: tl.int64, g_s2: tl.int64, table,
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    t, t_bs: tl.int64, t_cs: tl.int64, t_s0: tl.int64, t_s1: tl.int64, t_s2: tl.int64,
    w, w_bs: tl.int64, w_cs: tl.int64, w_s0: tl.int64, w_s1: tl.int64, w_s2: tl.int64,
    voxels: tl.int64, n1: tl.int64, n2: tl.int64, chunks: tl.int32, ignore: tl.int64,
    kind: tl.constexpr, ACT: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the input, given ``table [B, C, C]``, that of the sums of p."""
    x_view = View(x, x_bs, x_cs, x_s0, x_s1, x_s2)
    g_view = View(g, g_bs, g_cs, g_s0, g_s1, g_s2)
    t_view = View(t, t_bs, t_cs, t_s0, t_s1, t_s2)
    w_view = View(w, w_bs, w_cs, w_s0, w_s1, w_s2)
    sizes = (n1, n2)
    chunk = tl.program_id(0) % chunks
    item = tl.program_id(0).to(tl.int64) // chunks
    lanes = tl.arange(0, kind.BLOCK_V)
    n = voxels.to(tl.int64) * kind.UNIT
    table += item * (kind.C * kind.C)
    # Once for the sum over the classes that a softmax needs, once for the gradient.
    FIRST: tl.constexpr = 0 if ACT == SOFTMAX else 1
    for number in range(chunk, tl.cdiv(n, kind.BLOCK_V).to(tl.int32), chunks):
        first = tl.cast(number, tl.int64) * kind.BLOCK_V
        tile = Tile(item, first, lanes, first + lanes < n, sizes)
        code, counts, _ = load_voxels(t_view, tile, ignore, kind)
        scale = load_scale(w_view, tile, code, counts, kind.DENSE, kind)
        stats = softmax_stats(x_view, tile, counts, ACT, kind)
        dot = tl.zeros([kind.BLOCK_V], tl.float32)
        for write in tl.static_range(FIRST, 2):
            for start in range(0, kind.C, kind.BLOCK_C):
                block, logits = load_classes(x_view, tile, start, counts, kind)
                p, slope = probabilities(logits, block.in_c, counts, stats, ACT)
                if kind.DENSE:
                    dp = tl.zeros([kind.BLOCK_C, kind.BLOCK_V], tl.float32)
                    for other in range(0, kind.C, BLOCK_L):
                        l = tl.arange(0, BLOCK_L) + other
                        target = load_values(
                            t_view, w_view, tile, _classes(tile, l, kind), scale, kind
                        )
                        dp += _product(_load_factors(table, block.c, l, kind.C), target, False)
                else:
                    dp = _look_up(table, code, block.c, kind.C) * scale[None, :]
                if write == 0:
                    dot += tl.sum(p * dp, 0)
                else:
                    dx = chain_rule(dp, p, slope, dot, ACT)
                    if not kind.DENSE:
                        dx = tl.where(counts[None, :], dx, 0.0)
                    pointers = class_pointers(g_view, tile, block.c, kind)
                    tl.store(pointers, dx.to(g.dtype.element_ty), mask=block.mask)
