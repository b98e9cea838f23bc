"""What the Triton kernels of confusion_sums share: probabilities, targets, their chain rule.

Tiles are ``[C, V]``. With A_l = w t_l the forward kernels add up A_l p_c over voxels, and A_l; with
G = dL/d(sums) the backward kernels need dL/dp_c = sum over l of G[l, c] A_l.
"""

from __future__ import annotations

import triton
import triton.language as tl

from segloss_fast.ops._triton.activations import SIGMOID, SOFTMAX, exponentials, sigmoid
from segloss_fast.ops._triton.elementary import exp, reciprocal
from segloss_fast.ops._triton.tiles import (
    CHANNELS_LAST,
    GRADIENT_SIZES,
    NO_WEIGHT,
    PLANES,
    SHARED_WEIGHT,
    SIZES,
    class_pointers,
    load_classes,
    load_shared_weight,
    load_target,
    load_weight,
)

# Sizes and strides must not make new kernels.
FORWARD_SIZES = (*SIZES, "w_bs", "w_cs", "w_s0", "w_s1", "w_s2")
BACKWARD_SIZES = (*FORWARD_SIZES, *GRADIENT_SIZES)

CLASS_WEIGHTS = tl.constexpr(2)  # beside NO_WEIGHT and SHARED_WEIGHT


@triton.jit
def softmax_stats(view, tile, counts, ACT: tl.constexpr, kind: tl.constexpr):
    """Return each voxel's maximum and 1 / sum of e^(x - maximum), in one read of all classes."""
    top = tl.full(tile.lanes.shape, float("-inf"), tl.float32)
    base = tl.zeros(tile.lanes.shape, tl.float32)
    total = tl.zeros(tile.lanes.shape, tl.float32)
    if ACT == SOFTMAX:
        for start in range(0, kind.C, kind.BLOCK_C):
            block, x = load_classes(view, tile, start, counts, kind)
            in_c = block.in_c
            before, top = top, tl.maximum(top, tl.max(tl.where(in_c, x, float("-inf")), 0))
            # Where all is -infinite so far, the difference of two of them would be NaN.
            base = tl.where(top == float("-inf"), 0.0, top)
            total = total * exp(before - base) + tl.sum(exponentials(x, in_c, base), 0)
    return base, reciprocal(total)


@triton.jit
def probabilities(x, in_c, counts, stats, ACT: tl.constexpr):
    """Return p, 0 of classes that do not exist, and dp/dx of activations that work class by class.

    Where a voxel does not count its input is 0, so p is a finite number, to be multiplied by 0.
    """
    if ACT == SOFTMAX:
        base, inverse = stats
        p = exponentials(x, in_c, base) * inverse[None, :]
        return p, p
    elif ACT == SIGMOID:
        p, q, _, _ = sigmoid(x, counts[None, :])
        return tl.where(in_c, p, 0.0), p * q
    else:
        return x, tl.full(x.shape, 1.0, tl.float32)


@triton.jit
def load_scale(view, tile, code, counts, DENSE: tl.constexpr, kind: tl.constexpr):
    """Return each voxel's weight ``[V]``, for what its label or its dense target is multiplied by.

    It is the one that all classes share, or that of the voxel's label; or 1 where there is none,
    and of a dense target whose classes have their own: see load_values(). DENSE: whether the labels
    are of no use here.
    """
    if kind.WEIGHT == SHARED_WEIGHT:
        return load_shared_weight(view, tile, counts, kind)
    elif DENSE or kind.WEIGHT != CLASS_WEIGHTS:
        return tl.full(tile.lanes.shape, 1.0, tl.float32)
    else:
        has_class = code >= 0
        c = tl.where(has_class, code, 0).to(tl.int64)  # no other label becomes an offset
        pointers = class_pointers(view, tile, tl.full([1], 0, tl.int32), kind)
        if kind.LAYOUT == PLANES:
            pointers += (c * (view.classes.to(tl.int64) * kind.UNIT))[None, :]
        elif kind.LAYOUT == CHANNELS_LAST:
            pointers += c[None, :]
        else:
            pointers += (c * view.classes)[None, :]
        own = tl.load(pointers, mask=has_class[None, :], other=0).to(tl.float32)
        return tl.sum(own, 0)  # of one


@triton.jit
def load_values(t_view, w_view, tile, block, scale, kind: tl.constexpr):
    """Return a dense target times its weight ``[C, V]``, in float32."""
    value = load_target(t_view, tile, block, None, None, kind, False)
    if kind.WEIGHT == NO_WEIGHT:
        return value
    elif kind.WEIGHT == SHARED_WEIGHT:
        return value * scale[None, :]
    else:
        return value * load_weight(w_view, tile, block, tile.exists, kind)


@triton.jit
def chain_rule(dp, p, slope, dot, ACT: tl.constexpr):
    """Return dL/dx from dL/dp; ``dot`` is the sum over classes of p dL/dp, for a softmax."""
    if ACT == SOFTMAX:
        return p * (dp - dot[None, :])
    else:
        return dp * slope
