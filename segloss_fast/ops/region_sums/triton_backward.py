"""The backward kernel: reads input and target again, and writes the gradient of the input."""

import triton
import triton.language as tl

from segloss_fast.ops._triton.sums import row_of
from segloss_fast.ops._triton.tiles import (
    GRADIENT_SIZES,
    NO_WEIGHT,
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
)

SIZES = (*SIZES, *GRADIENT_SIZES, "r_ks", "r_bs", "r_cs", "order_low", "order_high")


@triton.jit
def load_factors(
    r, r_ks, r_bs, r_cs, item, c, in_c, order_low, order_high, TERMS: tl.constexpr
):  # fmt: skip
    """Return dL/d(term) of the item's classes, ``[C, 1]`` each, by term; 0 where not asked."""
    factors = ()
    for k in tl.static_range(COUNT):
        if has(TERMS, k):
            # The rows come in the caller's order.
            row = row_of(order_low, order_high, _rank(TERMS, k))
            pointers = r + row * r_ks + item * r_bs + c * r_cs
            factor = tl.load(pointers, mask=in_c, other=0.0).to(tl.float32)[:, None]
            factors = factors + (factor,)  # noqa: RUF005
        else:
            factors = factors + (0,)  # noqa: RUF005
    return factors


@triton.constexpr_function
def _rank(terms, k):
    """Return the place of term k among the terms of the set."""
    return bin(terms & ((1 << k) - 1)).count("1")


@triton.jit(do_not_specialize=SIZES)
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
    CLASS_BLOCKS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the input, given that of the rows."""
    x_view, g_view = (x, x_bs, x_cs, x_s0, x_s1, x_s2), (g, g_bs, g_cs, g_s0, g_s1, g_s2)
    t_view, w_view = (t, t_bs, t_cs, t_s0, t_s1, t_s2), (w, w_bs, w_cs, w_s0, w_s1, w_s2)
    sizes = (n1, n2)
    # The programs that share the classes of the same voxels follow each other.
    program = tl.program_id(0) // CLASS_BLOCKS
    chunk = program % chunks
    item = (program // chunks).to(tl.int64)
    c = tl.arange(0, BLOCK_C) + tl.program_id(0) % CLASS_BLOCKS * BLOCK_C
    in_c = c < C
    lanes = tl.arange(0, BLOCK_V)
    n = voxels.to(tl.int64) * UNIT
    k = load_factors(r, r_ks, r_bs, r_cs, item, c, in_c, order_low, order_high, TERMS)
    for tile in range(chunk, tl.cdiv(n, BLOCK_V).to(tl.int32), chunks):
        first = tl.cast(tile, tl.int64) * BLOCK_V
        in_v = first + lanes < n
        mask = in_c[:, None] & in_v[None, :]
        code, counts, _ = load_voxels(
            t_view, item, first, lanes, in_v, sizes, ignore, C, LAYOUT, UNIT, DENSE, IGNORE
        )
        logits = load_input(
            x_view, item, c, first, lanes, mask, counts, sizes, C, LAYOUT, UNIT, IGNORE
        )
        target = load_target(
            t_view, code, logits, item, c, first, lanes, mask, sizes, C, LAYOUT, UNIT, DENSE, True
        )
        weight = None
        if WEIGHT != NO_WEIGHT:
            weight = load_weight(
                w_view, item, c, first, lanes, mask, in_v, counts, sizes, C, LAYOUT, UNIT, WEIGHT
            )
        dx = _gradient_tile(
            logits,
            in_c[:, None],
            c,
            counts,
            target,
            weight,
            k,
            gamma,
            TERMS,
            ACT,
            CE_ACT,
            SQUARE,
            not DENSE,
        )
        if IGNORE:
            dx = tl.where(counts[None, :], dx, 0.0)
        pointers = class_pointers(g_view, item, c, first, lanes, sizes, C, LAYOUT, UNIT)
        tl.store(pointers, dx.to(g.dtype.element_ty), mask=mask)


@triton.jit
def _gradient_tile(x, in_c, c, counts, t, w, k, gamma, TERMS, ACT, CE_ACT, SQUARE, HARD):
    """Return dL/dx of a tile that holds all classes of its voxels, or uncoupled ones."""
    stats = None
    if uses(TERMS, ACT, CE_ACT, SOFTMAX):
        stats = softmax_stats(x, in_c, c, needs_others(TERMS, CE_ACT))
    region, ce, at = activate(x, in_c, c, t, counts, stats, TERMS, ACT, CE_ACT, HARD)
    dot = None
    top_sum = None
    if uses(TERMS, ACT, CE_ACT, SOFTMAX):
        dot, top_sum = class_sums(
            in_c, c, region, ce, at, stats, t, w, k, gamma, TERMS, ACT, CE_ACT, SQUARE, HARD
        )
    return gradient(
        x, in_c, c, region, ce, at, stats, t, w, k, gamma, dot, top_sum, TERMS, ACT, CE_ACT, SQUARE,
        HARD,
    )  # fmt: skip


@triton.jit
def class_sums(
    in_c, c, region, ce, at, stats, t, w, k, gamma, TERMS: tl.constexpr, ACT: tl.constexpr,
    CE_ACT: tl.constexpr, SQUARE: tl.constexpr, HARD: tl.constexpr,
):  # fmt: skip
    """Return the sums over the classes ``[V]`` that the chain rule of a softmax needs."""
    g, l, m = derivatives(TERMS, k, region[0], ce, at, t, w, gamma, SQUARE, HARD)
    h = softmax_part(g, l, m, region[0], ce, c, stats, TERMS, ACT, CE_ACT)
    dot = tl.sum(tl.where(in_c, h, 0.0), 0)
    if needs_others(TERMS, CE_ACT):
        return dot, tl.sum(tl.where(in_c, top_part(m, c, stats), 0.0), 0)
    else:
        return dot, tl.zeros_like(dot)


@triton.jit
def gradient(
    x, in_c, c, region, ce, at, stats, t, w, k, gamma, dot, top_sum, TERMS: tl.constexpr,
    ACT: tl.constexpr, CE_ACT: tl.constexpr, SQUARE: tl.constexpr, HARD: tl.constexpr,
):  # fmt: skip
    """Return dL/dx from the terms' derivatives and the sums over the classes."""
    g, l, m = derivatives(TERMS, k, region[0], ce, at, t, w, gamma, SQUARE, HARD)
    dx = None
    if uses(TERMS, ACT, CE_ACT, SIGMOID) or uses(TERMS, ACT, CE_ACT, PROBABILITIES):
        dx = direct_part(g, l, m, region, ce, TERMS, ACT, CE_ACT)
    if uses(TERMS, ACT, CE_ACT, SOFTMAX):
        p = region[0] if ACT == SOFTMAX and any_of(TERMS, REGION) else ce[0]
        h = softmax_part(g, l, m, region[0], ce, c, stats, TERMS, ACT, CE_ACT)
        dx = plus(dx, h - p * dot[None, :])
        if needs_others(TERMS, CE_ACT):
            dx += of_others(x, in_c, c, p, stats, top_sum)
    return dx
