"""The backward kernel: reads input and target again, and writes the gradient of the input."""

import triton
import triton.language as tl

from segloss_fast.ops._triton.sums import row_of
from segloss_fast.ops._triton.tiles import (
    GRADIENT_SIZES,
    NO_WEIGHT,
    Block,
    Tile,
    View,
    class_pointers,
    load_input,
    load_target,
    load_voxels,
    load_weight,
)
from segloss_fast.ops.region_sums.triton_activations import (
    PROBABILITIES,
    SIGMOID,
    SOFTMAX,
    activate,
    direct_part,
    needs_others,
    of_others,
    softmax_part,
    softmax_stats,
    top_part,
    uses,
)
from segloss_fast.ops.region_sums.triton_forward import SIZES
from segloss_fast.ops.region_sums.triton_terms import (
    COUNT,
    REGION,
    any_of,
    derivatives,
    has,
    plus,
    rank,
)

SIZES = (*SIZES, *GRADIENT_SIZES, "r_ks", "r_bs", "r_cs", "order_low", "order_high")


@triton.jit
def load_factors(
    r, r_ks, r_bs, r_cs, item, c, in_c, order_low, order_high, formula: tl.constexpr
):  # fmt: skip
    """Return dL/d(term) of the item's classes, ``[C, 1]`` each, by term; 0 where not asked."""
    factors = ()
    for k in tl.static_range(COUNT):
        if has(formula.TERMS, k):
            # The rows come in the caller's order.
            row = row_of(order_low, order_high, rank(formula.TERMS, k))
            pointers = r + row * r_ks + item * r_bs + c * r_cs
            factor = tl.load(pointers, mask=in_c, other=0.0).to(tl.float32)[:, None]
            factors = factors + (factor,)  # noqa: RUF005
        else:
            factors = factors + (0,)  # noqa: RUF005
    return factors


@triton.jit(do_not_specialize=SIZES)
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
    """Write the gradient of the input, given that of the rows."""
    x_view = View(x, x_bs, x_cs, x_s0, x_s1, x_s2)
    g_view = View(g, g_bs, g_cs, g_s0, g_s1, g_s2)
    t_view = View(t, t_bs, t_cs, t_s0, t_s1, t_s2)
    w_view = View(w, w_bs, w_cs, w_s0, w_s1, w_s2)
    sizes = (n1, n2)
    # The programs that share the classes of the same voxels follow each other.
    program = tl.program_id(0) // kind.CLASS_BLOCKS
    chunk = program % chunks
    item = (program // chunks).to(tl.int64)
    c = tl.arange(0, kind.BLOCK_C) + tl.program_id(0) % kind.CLASS_BLOCKS * kind.BLOCK_C
    in_c = (c < kind.C)[:, None]
    lanes = tl.arange(0, kind.BLOCK_V)
    n = voxels.to(tl.int64) * kind.UNIT
    k = load_factors(r, r_ks, r_bs, r_cs, item, c, c < kind.C, order_low, order_high, formula)
    for number in range(chunk, tl.cdiv(n, kind.BLOCK_V).to(tl.int32), chunks):
        first = tl.cast(number, tl.int64) * kind.BLOCK_V
        tile = Tile(item, first, lanes, first + lanes < n, sizes)
        block = Block(c, in_c, in_c & tile.exists[None, :])
        code, counts, _ = load_voxels(t_view, tile, ignore, kind)
        logits = load_input(x_view, tile, block, counts, kind)
        target = load_target(t_view, tile, block, code, logits, kind, True)
        weight = None
        if kind.WEIGHT != NO_WEIGHT:
            weight = load_weight(w_view, tile, block, counts, kind)
        dx = _gradient_tile(logits, block, counts, target, weight, k, gamma, formula)
        if kind.IGNORE:
            dx = tl.where(counts[None, :], dx, 0.0)
        pointers = class_pointers(g_view, tile, c, kind)
        tl.store(pointers, dx.to(g.dtype.element_ty), mask=block.mask)


@triton.jit
def _gradient_tile(x, block, counts, t, w, k, gamma, formula: tl.constexpr):
    """Return dL/dx of a tile that holds all classes of its voxels, or uncoupled ones."""
    stats = None
    if uses(formula, SOFTMAX):
        stats = softmax_stats(x, block.in_c, block.c, needs_others(formula))
    maps = activate(x, block, t, counts, stats, formula)
    sums = None
    if uses(formula, SOFTMAX):
        sums = class_sums(block, maps, stats, t, w, k, gamma, formula)
    return gradient(x, block, maps, stats, t, w, k, gamma, sums, formula)


@triton.jit
def class_sums(block, maps, stats, t, w, k, gamma, formula: tl.constexpr):
    """Return the sums over the classes ``[V]`` that the chain rule of a softmax needs."""
    g, l, m = derivatives(k, maps, t, w, gamma, formula)
    h = softmax_part(g, l, m, maps, block.c, stats, formula)
    dot = tl.sum(tl.where(block.in_c, h, 0.0), 0)
    if needs_others(formula):
        return dot, tl.sum(tl.where(block.in_c, top_part(m, block.c, stats), 0.0), 0)
    else:
        return dot, tl.zeros_like(dot)


@triton.jit
def gradient(x, block, maps, stats, t, w, k, gamma, sums, formula: tl.constexpr):
    """Return dL/dx from the terms' derivatives and, of a softmax, what class_sums() returns."""
    g, l, m = derivatives(k, maps, t, w, gamma, formula)
    dx = None
    if uses(formula, SIGMOID) or uses(formula, PROBABILITIES):
        dx = direct_part(g, l, m, maps, formula)
    if uses(formula, SOFTMAX):
        dot, top_sum = sums
        region = formula.ACT == SOFTMAX and any_of(formula.TERMS, REGION)
        p = maps.p if region else maps.ce[0]
        h = softmax_part(g, l, m, maps, block.c, stats, formula)
        dx = plus(dx, h - p * dot[None, :])
        if needs_others(formula):
            dx += of_others(x, block, p, stats, top_sum)
    return dx
