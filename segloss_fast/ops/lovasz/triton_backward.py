"""The backward kernels: look up what each voxel's bin adds to the loss, and write the gradient."""

import triton
import triton.language as tl

from segloss_fast.ops._triton.tiles import (
    GRADIENT_SIZES,
    SIZES,
    class_pointers,
    load_classes,
    load_input,
    load_voxels,
)
from segloss_fast.ops.lovasz.triton_errors import (
    HINGE,
    SOFTMAX,
    activate,
    bin_count,
    column_stats,
    errors,
    find_bins,
    load_foreground,
    wide_stats,
)

SIZES = (*SIZES, *GRADIENT_SIZES, "image_step")


@triton.jit
def _look_up(
    coefficients, grad_ce, image, c, x, in_c, t, counts, stats, C: tl.constexpr,
    ACT: tl.constexpr, OCTAVES: tl.constexpr, BITS: tl.constexpr, ENTROPY: tl.constexpr,
):  # fmt: skip
    """Return dL/dm signed, so that it is dL/dp (of a hinge, dL/dx); and dL/d(cross-entropy)."""
    K: tl.constexpr = bin_count(OCTAVES, BITS)
    m, other = errors(x, in_c, stats, t, ACT)
    k, _ = find_bins(m, other, OCTAVES, BITS, ACT)
    rows = coefficients + ((image * C + c) * (2 * K))[:, None]
    g = tl.load(rows + (k + tl.where(t, K, 0)), mask=in_c & counts[None, :], other=0.0)
    if ACT == HINGE:
        g = tl.where(m > 0, g, 0.0)
    factor = tl.zeros_like(in_c).to(tl.float32)
    if ENTROPY:
        pointers = (grad_ce + image * C + c)[:, None]
        factor = tl.load(pointers, mask=in_c, other=0.0).to(tl.float32)
    return tl.where(t, -g, g), factor


@triton.jit
def _column_sums(x, in_c, t, stats, g, factor, ENTROPY: tl.constexpr):
    """Return, of a softmax, sums over classes ``[V]`` that its chain rule needs.

    That are those of p dL/dp over the top classes and over the others, and of dL/d(cross-entropy)
    over the foreground.
    """
    p, _, is_top = activate(x, in_c, stats, SOFTMAX)
    part = tl.where(in_c, p * g, 0.0)
    top = tl.sum(tl.where(is_top, part, 0.0), 0)
    rest = tl.sum(tl.where(is_top, 0.0, part), 0)
    nll = tl.zeros_like(top)
    if ENTROPY:
        nll = tl.sum(tl.where(t, factor, 0.0), 0)
    return top, rest, nll


@triton.jit
def _softmax_gradient(x, in_c, t, stats, g, factor, sums, ENTROPY: tl.constexpr):
    """Return p (g - sum of p g); what a single top class adds to the sum is taken off first.

    Its p is near 1 where the voxel is nearly certain, and g - p g would cancel.
    """
    p, q, is_top = activate(x, in_c, stats, SOFTMAX)
    top, rest, nll = sums
    alone = is_top & (stats[2] == 1)[None, :]
    dx = p * tl.where(alone, g * q - rest[None, :], g - (top + rest)[None, :])
    if ENTROPY:
        own = tl.where(t, factor, 0.0)
        dx += (nll[None, :] - own) * p - own * q
    return dx


@triton.jit
def _direct_gradient(x, in_c, t, g, factor, ACT: tl.constexpr, ENTROPY: tl.constexpr):
    p, q, _ = activate(x, in_c, None, ACT)
    dx = g if ACT == HINGE else g * p * q
    if ENTROPY:
        dx += factor * tl.where(t, -q, p)
    return dx


@triton.jit(do_not_specialize=SIZES)
def input_gradient(
    g, g_bs: tl.int64, g_cs: tl.int64, g_s0: tl.int64, g_s1: tl.int64, g_s2: tl.int64,
    coefficients, grad_ce,
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    t, t_bs: tl.int64, t_cs: tl.int64, t_s0: tl.int64, t_s1: tl.int64, t_s2: tl.int64,
    voxels: tl.int64, n1: tl.int64, n2: tl.int64, chunks: tl.int32, ignore: tl.int64,
    image_step: tl.int64,
    C: tl.constexpr, ACT: tl.constexpr, OCTAVES: tl.constexpr, BITS: tl.constexpr,
    ENTROPY: tl.constexpr, DENSE: tl.constexpr, IGNORE: tl.constexpr, LAYOUT: tl.constexpr,
    UNIT: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_V: tl.constexpr, CLASS_BLOCKS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the input, of coefficients ``[I, C, 2, K]`` and grad_ce ``[I, C]``."""
    x_view, g_view = (x, x_bs, x_cs, x_s0, x_s1, x_s2), (g, g_bs, g_cs, g_s0, g_s1, g_s2)
    t_view, sizes = (t, t_bs, t_cs, t_s0, t_s1, t_s2), (n1, n2)
    program = tl.program_id(0) // CLASS_BLOCKS
    chunk = program % chunks
    item = (program // chunks).to(tl.int64)
    c = tl.arange(0, BLOCK_C) + tl.program_id(0) % CLASS_BLOCKS * BLOCK_C
    in_c = (c < C)[:, None]
    lanes = tl.arange(0, BLOCK_V)
    n = voxels.to(tl.int64) * UNIT
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
        is_fg = load_foreground(
            t_view, code, logits, item, c, first, lanes, mask, sizes, C, LAYOUT, UNIT, DENSE
        )
        stats = None
        if ACT == SOFTMAX:
            stats = column_stats(logits, in_c)
        slope, factor = _look_up(
            coefficients, grad_ce, item * image_step, c, logits, in_c, is_fg, counts, stats, C,
            ACT, OCTAVES, BITS, ENTROPY,
        )  # fmt: skip
        if ACT == SOFTMAX:
            sums = _column_sums(logits, in_c, is_fg, stats, slope, factor, ENTROPY)
            dx = _softmax_gradient(logits, in_c, is_fg, stats, slope, factor, sums, ENTROPY)
        else:
            dx = _direct_gradient(logits, in_c, is_fg, slope, factor, ACT, ENTROPY)
        if IGNORE:
            dx = tl.where(counts[None, :], dx, 0.0)
        pointers = class_pointers(g_view, item, c, first, lanes, sizes, C, LAYOUT, UNIT)
        tl.store(pointers, dx.to(g.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=SIZES)
def input_gradient_wide(
    g, g_bs: tl.int64, g_cs: tl.int64, g_s0: tl.int64, g_s1: tl.int64, g_s2: tl.int64,
    coefficients, grad_ce,
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    t, t_bs: tl.int64, t_cs: tl.int64, t_s0: tl.int64, t_s1: tl.int64, t_s2: tl.int64,
    voxels: tl.int64, n1: tl.int64, n2: tl.int64, chunks: tl.int32, ignore: tl.int64,
    image_step: tl.int64,
    C: tl.constexpr, ACT: tl.constexpr, OCTAVES: tl.constexpr, BITS: tl.constexpr,
    ENTROPY: tl.constexpr, DENSE: tl.constexpr, IGNORE: tl.constexpr, LAYOUT: tl.constexpr,
    UNIT: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Do the same for a softmax of more classes than a tile holds; four reads of the input."""
    x_view, g_view = (x, x_bs, x_cs, x_s0, x_s1, x_s2), (g, g_bs, g_cs, g_s0, g_s1, g_s2)
    t_view, sizes = (t, t_bs, t_cs, t_s0, t_s1, t_s2), (n1, n2)
    chunk = tl.program_id(0) % chunks
    item = tl.program_id(0).to(tl.int64) // chunks
    lanes = tl.arange(0, BLOCK_V)
    n = voxels.to(tl.int64) * UNIT
    for tile in range(chunk, tl.cdiv(n, BLOCK_V).to(tl.int32), chunks):
        first = tl.cast(tile, tl.int64) * BLOCK_V
        in_v = first + lanes < n
        code, counts, _ = load_voxels(
            t_view, item, first, lanes, in_v, sizes, ignore, C, LAYOUT, UNIT, DENSE, IGNORE
        )
        stats = wide_stats(
            x_view, item, first, lanes, in_v, counts, sizes, C, LAYOUT, UNIT, IGNORE, BLOCK_C
        )
        top = tl.zeros([BLOCK_V], tl.float32)
        rest = tl.zeros([BLOCK_V], tl.float32)
        nll = tl.zeros([BLOCK_V], tl.float32)
        # The first time for the sums over the classes, the second for the gradient.
        for write in tl.static_range(2):
            for begin in range(0, C, BLOCK_C):
                c, in_c, logits = load_classes(
                    x_view, item, begin, first, lanes, in_v, counts, sizes, C, LAYOUT, UNIT,
                    IGNORE, BLOCK_C,
                )  # fmt: skip
                mask = in_c & in_v[None, :]
                is_fg = load_foreground(
                    t_view, code, logits, item, c, first, lanes, mask, sizes, C, LAYOUT, UNIT, DENSE
                )
                slope, factor = _look_up(
                    coefficients, grad_ce, item * image_step, c, logits, in_c, is_fg, counts,
                    stats, C, ACT, OCTAVES, BITS, ENTROPY,
                )  # fmt: skip
                if write == 0:
                    more = _column_sums(logits, in_c, is_fg, stats, slope, factor, ENTROPY)
                    top += more[0]
                    rest += more[1]
                    nll += more[2]
                else:
                    dx = _softmax_gradient(
                        logits, in_c, is_fg, stats, slope, factor, (top, rest, nll), ENTROPY
                    )
                    if IGNORE:
                        dx = tl.where(counts[None, :], dx, 0.0)
                    pointers = class_pointers(g_view, item, c, first, lanes, sizes, C, LAYOUT, UNIT)
                    tl.store(pointers, dx.to(g.dtype.element_ty), mask=mask)
