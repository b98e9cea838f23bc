"""Activations of a tile ``[C, V]`` of logits, with their logarithms, and the chain rule back.

The softmax needs statistics of every voxel over its classes. They are computed from the whole class
column where that is one tile, and by a loop over tiles where it is not (triton_wide.py). An
exponential that appears in the statistics and again in the rows is one instruction after the
compiler's elimination of common subexpressions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from segloss_fast.ops._triton.activations import (
    PROBABILITIES,
    SIGMOID,
    SOFTMAX,
    exponentials,
    probabilities,
    sigmoid,
)
from segloss_fast.ops._triton.elementary import (
    PROBABILITY_MIN,
    at_least,
    exp,
    log_normal,
    log_one_minus,
    reciprocal,
)
from segloss_fast.ops.region_sums.triton_terms import (
    LOG_P,
    LOG_Q,
    LOGS,
    REGION,
    any_of,
    plus,
)

NO_CLASS = tl.constexpr(1 << 30)


class Maps(NamedTuple):
    """What a tile's terms are made of.

    Attributes:
        p: Of the terms in p.
        q: 1 - p.
        ce: p, 1 - p, log p and log(1 - p) of the terms in logarithms.
        at: The same four, of terms with the factor t: of class indices ``[1, V]``, the voxel's own
            class, so that powers and logarithms are taken once per voxel; of values it is ce.
    """

    p: Any
    q: Any
    ce: Any
    at: Any


@triton.constexpr_function
def uses(formula, activation):
    """Whether the terms need this activation."""
    terms, act, ce_act, _, _ = formula  # Triton 3.6 takes the names off
    region = act == activation and terms & REGION.value != 0
    return region or (ce_act == activation and terms & LOGS.value != 0)


@triton.constexpr_function
def needs_others(formula):
    """Whether log(1 - p) of a softmax is needed."""
    terms, _, ce_act, _, _ = formula
    return ce_act == SOFTMAX.value and terms & LOG_Q.value != 0


@triton.jit
def softmax_stats(x, in_c, c, OTHERS: tl.constexpr):
    """Return, per voxel ``[V]``: max, sum of e^(x - max), and of the classes but the top one.

    OTHERS: log(1 - p) is needed. 1 - p of the most probable class must come from the others, so all
    is relative to their maximum: of the top class (the first, if several are equal) the exponential
    is known, and there is one exponential per element still.
    """
    inside = tl.where(in_c, x, float("-inf"))
    top_x = tl.max(inside, 0)
    if OTHERS:
        top = tl.min(tl.where(in_c & (x == top_x[None, :]), c[:, None], NO_CLASS), 0)
        second = tl.max(tl.where(c[:, None] == top[None, :], float("-inf"), inside), 0)
        others = tl.sum(others_exponentials(x, in_c, c, top, second), 0)
        return stats_with_others(top_x, top, second, others)
    else:
        return stats_without_others(top_x, tl.sum(exponentials(x, in_c, top_x), 0))


@triton.jit
def stats_with_others(top_x, top, second, others):
    """Return (max, sum, 1 / scale of others_exponentials, top class, second, their sum)."""
    scale = exp(second - top_x)
    # max - max is NaN where torch's softmax is: if the maximum is infinite.
    return top_x, 1 + others * scale + (top_x - top_x), scale, top, second, others


@triton.jit
def stats_without_others(top_x, total):
    """Return (max, sum); nobody reads the rest."""
    return top_x, total, total, total, total, total


@triton.jit
def others_exponentials(x, in_c, c, top, second):
    """Return e^(x - second) of all classes but the top one, 0 where all those are -infinite."""
    base = tl.where(second == float("-inf"), 0.0, second)
    others = in_c & (c[:, None] != top[None, :])
    return tl.where(others, exp(x - base[None, :]), 0.0)


@triton.jit
def softmax(x, block, counts, stats, OTHERS: tl.constexpr):
    """Return p, log p and log(1 - p); p is 0 where a voxel does not count."""
    c, in_c, _ = block
    top_x, total, scale, top, second, others = stats
    inverse = tl.where(counts, reciprocal(total), 0.0)
    log_total = log_normal(total)
    log_p = (x - top_x[None, :]) - log_total[None, :]
    if OTHERS:
        is_top = c[:, None] == top[None, :]
        rest = others_exponentials(x, in_c, c, top, second) * (scale * inverse)[None, :]
        p = tl.where(in_c, tl.where(is_top, inverse[None, :], rest), 0.0)
        log_others = (second - top_x) + log_normal(others)
        of_top = tl.where(others > 0, log_others, float("-inf")) - log_total
        log_q = tl.where(is_top, of_top[None, :], log_one_minus(p))
    else:
        p = exponentials(x, in_c, top_x) * inverse[None, :]
        log_q = log_p  # nobody reads it
    return p, log_p, log_q


@triton.jit
def softmax_of_label(x, t, counts, stats):
    """Return the same four ``[1, V]`` of the class that t marks; nobody reads the last."""
    top_x, total, _, _, _, _ = stats
    shifted = tl.sum(tl.where(t, x - top_x[None, :], 0.0), 0)
    log_p = shifted - log_normal(total)
    p = tl.where(counts, exp(shifted) * reciprocal(total), 0.0)
    return p[None, :], (1 - p)[None, :], log_p[None, :], log_p[None, :]


@triton.jit
def activate(x, block, t, counts, stats, formula: tl.constexpr):
    """Return the Maps of a tile."""
    p, q = x, x
    ce = (x, x, x, x)  # nobody reads it
    at = ce
    if uses(formula, SOFTMAX):
        prob, log_p, log_q = softmax(x, block, counts, stats, needs_others(formula))
        if formula.ACT == SOFTMAX:
            p, q = prob, 1 - prob
        if formula.CE_ACT == SOFTMAX:
            ce = (prob, 1 - prob, log_p, log_q)
            at = softmax_of_label(x, t, counts, stats) if formula.HARD else ce
    if uses(formula, SIGMOID):
        rows = sigmoid(x, counts[None, :])
        if formula.ACT == SIGMOID:
            p, q = rows[0], rows[1]
        if formula.CE_ACT == SIGMOID:
            ce = rows
            at = sigmoid(_of_label(x, t), counts[None, :]) if formula.HARD else ce
    if uses(formula, PROBABILITIES):
        ce = probabilities(x)
        at = probabilities(_of_label(x, t)) if formula.HARD else ce
    return Maps(p, q, ce, at)


@triton.jit
def _of_label(x, t):
    """Return the value of the class that t marks ``[1, V]``, 0 where it marks none."""
    return tl.sum(tl.where(t, x, 0.0), 0)[None, :]


@triton.jit
def softmax_part(g, l, m, maps, c, stats, formula: tl.constexpr):
    """Return dL/d(log p) of a softmax, to be coupled over the classes.

    Of g = dL/dp, l = -dL/d(log p) and m = -dL/d(log(1 - p)). log(1 - p) has the derivative
    -p / (1 - p) in log p; not of the top class, whose 1 - p may vanish: see of_others().
    """
    h = None
    if formula.ACT == SOFTMAX and any_of(formula.TERMS, REGION):
        h = maps.p * g
    if formula.CE_ACT == SOFTMAX and any_of(formula.TERMS, LOG_P):
        h = plus(h, -l)
    if formula.CE_ACT == SOFTMAX and any_of(formula.TERMS, LOG_Q):
        is_top = c[:, None] == stats[3][None, :]
        h = plus(h, tl.where(is_top, 0.0, m * maps.ce[0] / maps.ce[1]))
    return h


@triton.jit
def top_part(m, c, stats):
    """Return dL/d(log(1 - p)) of a softmax's top class, 0 for the others."""
    return tl.where(c[:, None] == stats[3][None, :], -m, 0.0)


@triton.jit
def of_others(x, block, p, stats, top_sum):
    """Return the part of dL/dx through log(1 - p) of the top class.

    d log(1 - p_top) / d x_k = (the softmax of k among the others, 0 for the top class) - p_k.
    """
    others = stats[5]
    share = others_exponentials(x, block.in_c, block.c, stats[3], stats[4])
    share *= tl.where(others > 0, reciprocal(others), 0.0)[None, :]
    return top_sum[None, :] * (share - p)


@triton.jit
def direct_part(g, l, m, maps, formula: tl.constexpr):
    """Return the part of dL/dx that does not go through a softmax."""
    ce = maps.ce
    dx = None
    if any_of(formula.TERMS, REGION):
        if formula.ACT == SIGMOID:
            dx = g * maps.p * maps.q
        elif formula.ACT == PROBABILITIES:
            dx = g
    if any_of(formula.TERMS, LOG_P):
        if formula.CE_ACT == SIGMOID:
            dx = plus(dx, -l * ce[1])
        elif formula.CE_ACT == PROBABILITIES:
            dx = plus(dx, -l / at_least(ce[0], PROBABILITY_MIN))
    if any_of(formula.TERMS, LOG_Q):
        if formula.CE_ACT == SIGMOID:
            dx = plus(dx, m * ce[0])
        elif formula.CE_ACT == PROBABILITIES:
            dx = plus(dx, m / at_least(ce[1], PROBABILITY_MIN))
    return dx
