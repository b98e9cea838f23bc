"""The terms of a tile of voxels: their values, and their derivatives by p, log p and log(1 - p).

A set of terms is an int, one bit per term in the order of ``options.TERMS``; so is the order of
the rows that the kernels keep, whatever order the caller asked for. Tiles are ``[C, V]``. ``t`` is
boolean for class indices (HARD) and float32 for values; ``w`` is None without weights;
``maps`` are those of triton_activations.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from segloss_fast.ops._triton.elementary import power, power_derivative
from segloss_fast.ops._triton.kinds import constants
from segloss_fast.ops.region_sums.options import TERMS as NAMES

TP = tl.constexpr(NAMES.index("tp"))
TP_SOFT = tl.constexpr(NAMES.index("tp_soft"))
FP = tl.constexpr(NAMES.index("fp"))
FN = tl.constexpr(NAMES.index("fn"))
PRED = tl.constexpr(NAMES.index("pred"))
TARGET = tl.constexpr(NAMES.index("target"))
PRED_SQ = tl.constexpr(NAMES.index("pred_sq"))
TARGET_SQ = tl.constexpr(NAMES.index("target_sq"))
SQ_ERR = tl.constexpr(NAMES.index("sq_err"))
SQ_ERR_POS = tl.constexpr(NAMES.index("sq_err_pos"))
SQ_ERR_NEG = tl.constexpr(NAMES.index("sq_err_neg"))
ABS_ERR = tl.constexpr(NAMES.index("abs_err"))
NLL = tl.constexpr(NAMES.index("nll"))
NLL_NEG = tl.constexpr(NAMES.index("nll_neg"))
NLL_ALL = tl.constexpr(NAMES.index("nll_all"))
NLL_POW = tl.constexpr(NAMES.index("nll_pow"))
FOCAL = tl.constexpr(NAMES.index("focal"))
FOCAL_NEG = tl.constexpr(NAMES.index("focal_neg"))
WEIGHT = tl.constexpr(NAMES.index("weight"))
COUNT = tl.constexpr(len(NAMES))


@constants
class Formula(NamedTuple):
    """What of the terms the kernels are compiled for: one constant, as ``Kind`` is.

    Attributes:
        TERMS: The set of terms.
        ACT: The activation of those in p.
        CE_ACT: The activation of those in its logarithms.
        SQUARE: Whether gamma is 2.
        HARD: Whether the target is class indices.
    """

    TERMS: int
    ACT: int
    CE_ACT: int
    SQUARE: bool
    HARD: bool


def bits(*names: str) -> int:
    """Return the set of the named terms."""
    return sum(1 << NAMES.index(name) for name in names)


def row_order(terms: tuple[str, ...]) -> list[int]:
    """Return where each row goes, in the order of the bits of the set."""
    return [terms.index(name) for name in NAMES if name in terms]


# Terms in p, in log p, and in log(1 - p).
REGION = tl.constexpr(
    bits("tp", "tp_soft", "fp", "fn", "pred", "pred_sq", "sq_err", "sq_err_pos")
    | bits("sq_err_neg", "abs_err")
)
LOG_P = tl.constexpr(bits("nll", "nll_all", "nll_pow", "focal"))
LOG_Q = tl.constexpr(bits("nll_neg", "focal_neg"))
LOGS = tl.constexpr(LOG_P.value | LOG_Q.value)
# Those that do not vanish by themselves where a voxel does not count: p and t are 0 there.
NEED_MASK = tl.constexpr(bits("nll_neg", "nll_all", "focal_neg", "weight"))


@triton.constexpr_function
def has(terms, term):
    """Whether the set has the term."""
    return (terms >> term) & 1 == 1


@triton.constexpr_function
def any_of(terms, names):
    """Whether the two sets have a term in common."""
    return terms & names != 0


@triton.constexpr_function
def count(terms):
    """Return how many terms the set has."""
    return bin(terms).count("1")


@triton.constexpr_function
def rank(terms, k):
    """Return the place of term k among the terms of the set."""
    return bin(terms & ((1 << k) - 1)).count("1")


@triton.jit
def plus(total, value):
    """Add, where None is an empty sum; 0 + x would cost an instruction, because of -0."""
    if total is None:
        return value
    else:
        return total + value


@triton.jit
def weigh(w, value):
    """Multiply by the voxel weight."""
    if w is None:
        return value
    else:
        return w * value


@triton.jit
def _as_float(t, HARD: tl.constexpr):
    if HARD:
        return tl.where(t, 1.0, 0.0)
    else:
        return t


@triton.jit
def _product(t, value, HARD: tl.constexpr):
    """Return t times the value, 0 where t is 0, also if the value is infinite or NaN."""
    if HARD:
        return tl.where(t, value, 0.0)
    else:
        return tl.where(t == 0, 0.0, t * value)


@triton.jit
def _product_rest(t, value, HARD: tl.constexpr):
    """The same with 1 - t."""
    if HARD:
        return tl.where(t, 0.0, value)
    else:
        return tl.where(t == 1, 0.0, (1 - t) * value)


@triton.jit
def _region_value(K: tl.constexpr, p, t, HARD: tl.constexpr):
    y = _as_float(t, HARD)
    if K == TP:
        return p * y
    elif K == TP_SOFT:
        return tl.minimum(p, y, propagate_nan=tl.PropagateNan.ALL)
    elif K == FP:
        return p * (1 - y)
    elif K == FN:
        return y * (1 - p)
    elif K == PRED:
        return p
    elif K == TARGET:
        return y
    elif K == PRED_SQ:
        return p * p
    elif K == TARGET_SQ:
        return y * y
    elif K == SQ_ERR:
        return (p - y) * (p - y)
    elif K == SQ_ERR_POS:
        return y * ((p - y) * (p - y))
    elif K == SQ_ERR_NEG:
        return (1 - y) * ((p - y) * (p - y))
    elif K == ABS_ERR:
        return tl.abs(p - y)
    else:
        return tl.full(p.shape, 1.0, tl.float32)


@triton.jit
def _log_value(K: tl.constexpr, maps, t, gamma, formula: tl.constexpr):
    ce, at = maps.ce, maps.at
    if K == NLL:
        return _product(t, -at[2], formula.HARD)
    elif K == NLL_NEG:
        return _product_rest(t, -ce[3], formula.HARD)
    elif K == NLL_ALL:
        return -ce[2]
    elif K == NLL_POW:
        return _product(t, power(-at[2], gamma, formula.SQUARE), formula.HARD)
    elif K == FOCAL:
        return _product(t, -power(at[1], gamma, formula.SQUARE) * at[2], formula.HARD)
    else:
        return _product_rest(t, -power(ce[0], gamma, formula.SQUARE) * ce[3], formula.HARD)


@triton.jit
def term_value(K: tl.constexpr, maps, t, w, counts, gamma, formula: tl.constexpr):
    """Return what every voxel adds to term K.

    ``counts`` is ``[1, V]``, false for voxels that have no share; a weight is 0 there already.
    """
    if has(LOGS, K):
        value = _log_value(K, maps, t, gamma, formula)
    else:
        value = _region_value(K, maps.p, t, formula.HARD)
    if w is None:
        if has(NEED_MASK, K):
            value = tl.where(counts, value, 0.0)
        return value
    else:
        return w * value


@triton.jit
def region_derivative(k, p, t, w, formula: tl.constexpr):
    """Return dL/dp from the terms in p; ``k`` holds dL/d(term) by term, ``[C, 1]`` each."""
    y = _as_float(t, formula.HARD)
    g = None
    if has(formula.TERMS, TP):
        g = plus(g, k[TP] * y)
    if has(formula.TERMS, TP_SOFT):
        g = plus(g, k[TP_SOFT] * tl.where(p < y, 1.0, tl.where(p > y, 0.0, 0.5)))
    if has(formula.TERMS, FP):
        g = plus(g, k[FP] * (1 - y))
    if has(formula.TERMS, FN):
        g = plus(g, -k[FN] * y)
    if has(formula.TERMS, PRED):
        g = plus(g, k[PRED] + tl.zeros_like(p))
    if has(formula.TERMS, PRED_SQ):
        g = plus(g, 2 * k[PRED_SQ] * p)
    if has(formula.TERMS, SQ_ERR):
        g = plus(g, 2 * k[SQ_ERR] * (p - y))
    if has(formula.TERMS, SQ_ERR_POS):
        g = plus(g, 2 * k[SQ_ERR_POS] * y * (p - y))
    if has(formula.TERMS, SQ_ERR_NEG):
        g = plus(g, 2 * k[SQ_ERR_NEG] * (1 - y) * (p - y))
    if has(formula.TERMS, ABS_ERR):
        sign = tl.where(p > y, 1.0, tl.where(p < y, -1.0, 0.0))
        g = plus(g, k[ABS_ERR] * sign)
    return weigh(w, g)


@triton.jit
def _focal_slope(p, q, log_p, gamma, SQUARE: tl.constexpr):
    """Return d(q^gamma log p) / d(log p), with dq/d(log p) = -p.

    Where log p is infinite, p log p is 0, its limit.
    """
    slope = power_derivative(q, gamma, SQUARE) * p
    return power(q, gamma, SQUARE) - tl.where(slope == 0, 0.0, slope * log_p)


@triton.jit
def log_p_derivative(k, maps, t, w, gamma, formula: tl.constexpr):
    """Return -dL/d(log p) from the terms in log p."""
    p, q, log_p, _ = maps.at
    loss = None
    if has(formula.TERMS, NLL):
        loss = plus(loss, k[NLL] * _as_float(t, formula.HARD))
    if has(formula.TERMS, NLL_ALL):
        loss = plus(loss, k[NLL_ALL] + tl.zeros_like(maps.ce[2]))
    if has(formula.TERMS, NLL_POW):
        slope = power_derivative(-log_p, gamma, formula.SQUARE)
        loss = plus(loss, k[NLL_POW] * _product(t, slope, formula.HARD))
    if has(formula.TERMS, FOCAL):
        slope = _focal_slope(p, q, log_p, gamma, formula.SQUARE)
        loss = plus(loss, k[FOCAL] * _product(t, slope, formula.HARD))
    return weigh(w, loss)


@triton.jit
def log_q_derivative(k, maps, t, w, gamma, formula: tl.constexpr):
    """Return -dL/d(log(1 - p)) from the terms in log(1 - p)."""
    p, q, _, log_q = maps.ce
    loss = None
    if has(formula.TERMS, NLL_NEG):
        loss = plus(loss, k[NLL_NEG] * (1 - _as_float(t, formula.HARD)))
    if has(formula.TERMS, FOCAL_NEG):
        slope = _focal_slope(q, p, log_q, gamma, formula.SQUARE)
        loss = plus(loss, k[FOCAL_NEG] * _product_rest(t, slope, formula.HARD))
    return weigh(w, loss)


@triton.jit
def derivatives(k, maps, t, w, gamma, formula: tl.constexpr):
    """Return dL/dp, -dL/d(log p) and -dL/d(log(1 - p)); anything where no term reaches them."""
    g = maps.p
    l = maps.p
    m = maps.p
    if any_of(formula.TERMS, REGION):
        g = region_derivative(k, maps.p, t, w, formula)
    if any_of(formula.TERMS, LOG_P):
        l = log_p_derivative(k, maps, t, w, gamma, formula)
    if any_of(formula.TERMS, LOG_Q):
        m = log_q_derivative(k, maps, t, w, gamma, formula)
    return g, l, m
