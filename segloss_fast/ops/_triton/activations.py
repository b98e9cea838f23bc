"""Activations of tiles of logits, with their logarithms, as several primitives have them."""

from __future__ import annotations

import triton
import triton.language as tl

from segloss_fast.ops._triton.elementary import (
    exp,
    log1p_unit,
    log_one_minus,
    log_probability,
    reciprocal,
)
from segloss_fast.ops._voxels.maps import ACTIVATIONS

SOFTMAX = tl.constexpr(ACTIVATIONS.index("softmax"))
SIGMOID = tl.constexpr(ACTIVATIONS.index("sigmoid"))
PROBABILITIES = tl.constexpr(ACTIVATIONS.index("probabilities"))


@triton.jit
def exponentials(x, in_c, top_x):
    """Return e^(x - max)."""
    return tl.where(in_c, exp(x - top_x[None, :]), 0.0)


@triton.jit
def sigmoid(x, counts):
    """Return p, 1 - p, log p and log(1 - p); p is 0 where a voxel does not count."""
    e = exp(-tl.abs(x))
    large = reciprocal(1 + e)
    small = e * large
    log = log1p_unit(e)
    p = tl.where(counts, tl.where(x >= 0, large, small), 0.0)
    q = tl.where(x >= 0, small, large)
    return p, q, tl.where(x < 0, x, 0.0) - log, tl.where(x > 0, -x, 0.0) - log


@triton.jit
def probabilities(p):
    """Return p, 1 - p, log p and log(1 - p)."""
    log_q = tl.where(p < 0.5, log_one_minus(p), log_probability(1 - p))
    return p, 1 - p, log_probability(p), log_q
