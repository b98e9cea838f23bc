"""Elementary functions of tiles, with the accuracy of the CPU kernels' (csrc/voxels/math.inc).

Triton's core has no log1p, and the logarithm of the GPU is good to 2e-7 absolute only: a loss of
voxels that are nearly certain needs better. The series here need no library, so that they work in
the interpreter and in kernels compiled ahead of time. Where the interpreter runs other code than a
GPU, it is one instruction.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG_MIN = tl.constexpr(-100.0)  # torch's binary cross-entropy clamps log 0 to this,
PROBABILITY_MIN = tl.constexpr(1e-12)  # and a denominator of its gradient to this
MIN_NORMAL = tl.constexpr(1.17549435e-38)
MAX = tl.constexpr(3.40282347e38)
SQRT_HALF_BITS = tl.constexpr(0x3F3504F3)
LN2_HIGH = tl.constexpr(0.693359375)
LN2_LOW = tl.constexpr(-2.12194440e-4)
LOG2_E = tl.constexpr(1.4426950408889634)
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def exp(x):
    """Return e^x, with 0 for what would be denormal: tl.exp spends three instructions on those."""
    if INTERPRETED:
        return tl.exp(x)
    else:
        return tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x * LOG2_E], tl.float32, is_pure=True, pack=1
        )


@triton.jit
def reciprocal(x):
    """Return 1 / x of x near 1, a NaN or infinity: a division spends six instructions on others."""
    if INTERPRETED:
        return 1 / x
    else:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1
        )


@triton.jit
def _atanh_series(s2, TERMS: tl.constexpr):
    """Return 2 atanh(s) / s from s^2."""
    total = tl.zeros_like(s2) + 2.0 / (2 * TERMS - 1)
    for k in tl.static_range(1, TERMS):
        total = total * s2 + 2.0 / (2 * (TERMS - k) - 1)
    return total


@triton.jit
def log_normal(x):
    """Return log x of normal x > 0, infinity and NaN included, also near 1 to the last bits."""
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - SQRT_HALF_BITS) >> 23  # x = m 2^exponent, m in [sqrt(1/2), sqrt(2))
    m = (bits - (exponent << 23)).to(tl.float32, bitcast=True)
    s = (m - 1) * reciprocal(m + 1)
    e = exponent.to(tl.float32)
    log = s * _atanh_series(s * s, 5) + e * LN2_LOW + e * LN2_HIGH
    return tl.where(x <= MAX, log, x)


@triton.jit
def log1p_unit(e):
    """Return log(1 + e) of e in [0, 1], accurate for small e."""
    s = e * reciprocal(2 + e)
    return s * _atanh_series(s * s, 8)


@triton.jit
def log_one_minus(p):
    """Return log(1 - p) of p in [0, 1/2], accurate for small p."""
    s = -p * reciprocal(2 - p)
    return s * _atanh_series(s * s, 8)


@triton.jit
def log_probability(p):
    """Return log p clamped to -100; NaN for p < 0."""
    denormal = p < MIN_NORMAL
    scaled = log_normal(tl.where(denormal, p * 16777216.0, p))  # 2^24
    log = scaled - tl.where(denormal, 16.6355323, 0.0)
    log = tl.where(log < LOG_MIN, LOG_MIN, log)
    return tl.where(p > 0, log, tl.where(p == 0, LOG_MIN, float("nan")))


@triton.jit
def power(base, gamma, SQUARE: tl.constexpr):
    """Return base^gamma of base >= 0, with 0^gamma = 0 except for gamma = 0.

    SQUARE: gamma is 2, the usual one.
    """
    if SQUARE:
        return tl.where(base < 0, 0.0, base * base)
    else:
        at_zero = tl.where(gamma == 0, 1.0, 0.0)
        return tl.where(base < MIN_NORMAL, at_zero, tl.exp2(gamma * tl.log2(base)))


@triton.jit
def power_derivative(base, gamma, SQUARE: tl.constexpr):
    """Return d(base^gamma) / d(base), 0 at 0, of infinity its limit."""
    if SQUARE:
        return tl.where(base < 0, 0.0, 2 * base)
    else:
        at_infinity = tl.where(gamma < 1, 0.0, tl.where(gamma == 1, 1.0, float("inf")))
        slope = gamma * power(base, gamma, SQUARE) / base
        slope = tl.where(base == float("inf"), at_infinity, slope)
        return tl.where(base < MIN_NORMAL, 0.0, slope)


@triton.jit
def at_least(x, minimum):
    """Return the larger of the two, and a NaN as it is."""
    return tl.where(x < minimum, minimum, x)
