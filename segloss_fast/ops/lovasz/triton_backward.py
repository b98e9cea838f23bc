"""The backward kernels: look up what each voxel's bin adds to the loss, and write the gradient."""

import triton
import triton.language as tl

from segloss_fast.ops._triton.tiles import (
    GRADIENT_SIZES,
    SIZES,
    Block,
    Tile,
    View,
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
def _look_up(incoming, image, block, x, t, counts, stats, C: tl.constexpr, bins: tl.constexpr):
    """Return dL/dm signed, so that it is dL/dp (of a hinge, dL/dx); and dL/d(cross-entropy)."""
    table, scale, grad_ce = incoming
    c, in_c, _ = block
    K: tl.constexpr = bin_count(bins.OCTAVES, bins.BITS)
    m, other = errors(x, in_c, stats, t, bins.ACT)
    k, _ = find_bins(m, other, bins)
    row = image * C + c
    rows = table + (row * (2 * K))[:, None]
    g = tl.load(rows + (k + tl.where(t, K, 0)), mask=in_c & counts[None, :], other=0.0)
    g *= scale
    if bins.ACT == HINGE:
        g = tl.where(m > 0, g, 0.0)
    factor = tl.zeros_like(in_c).to(tl.float32)
    if bins.ENTROPY:
        factor = tl.load(grad_ce + row[:, None], mask=in_c, other=0.0).to(tl.float32)
    return tl.where(t, -g, g), factor


@triton.jit
def _load_scale(grad_loss, image, c, in_c, C: tl.constexpr):
    """Return dL/d(loss) of the classes, ``[C, 1]``."""
    return tl.load(grad_loss + (image * C + c)[:, None], mask=in_c, other=0.0).to(tl.float32)


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
    table, grad_loss, grad_ce,
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    t, t_bs: tl.int64, t_cs: tl.int64, t_s0: tl.int64, t_s1: tl.int64, t_s2: tl.int64,
    voxels: tl.int64, n1: tl.int64, n2: tl.int64, chunks: tl.int32, ignore: tl.int64,
    image_step: tl.int64,
    kind: tl.constexpr, bins: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the input, of those of loss and cross-entropy ``[I, C]``.

    The table of g is ``[I, C, 2, K]``.
    """
    x_view = View(x, x_bs, x_cs, x_s0, x_s1, x_s2)
    g_view = View(g, g_bs, g_cs, g_s0, g_s1, g_s2)
    t_view, sizes = View(t, t_bs, t_cs, t_s0, t_s1, t_s2), (n1, n2)
    program = tl.program_id(0) // kind.CLASS_BLOCKS
    chunk = program % chunks
    item = (program // chunks).to(tl.int64)
    c = tl.arange(0, kind.BLOCK_C) + tl.program_id(0) % kind.CLASS_BLOCKS * kind.BLOCK_C
    in_c = (c < kind.C)[:, None]
    lanes = tl.arange(0, kind.BLOCK_V)
    n = voxels.to(tl.int64) * kind.UNIT
    scale = _load_scale(grad_loss, item * image_step, c, in_c, kind.C)
    for number in range(chunk, tl.cdiv(n, kind.BLOCK_V).to(tl.int32), chunks):
        first = tl.cast(number, tl.int64) * kind.BLOCK_V
        tile = Tile(item, first, lanes, first + lanes < n, sizes)
        block = Block(c, in_c, in_c & tile.exists[None, :])
        code, counts, _ = load_voxels(t_view, tile, ignore, kind)
        logits = load_input(x_view, tile, block, counts, kind)
        is_fg = load_foreground(t_view, tile, block, code, logits, kind)
        stats = None
        if bins.ACT == SOFTMAX:
            stats = column_stats(logits, in_c)
        slope, factor = _look_up(
            (table, scale, grad_ce), item * image_step, block, logits, is_fg, counts, stats,
            kind.C, bins,
        )  # fmt: skip
        if bins.ACT == SOFTMAX:
            sums = _column_sums(logits, in_c, is_fg, stats, slope, factor, bins.ENTROPY)
            dx = _softmax_gradient(logits, in_c, is_fg, stats, slope, factor, sums, bins.ENTROPY)
        else:
            dx = _direct_gradient(logits, in_c, is_fg, slope, factor, bins.ACT, bins.ENTROPY)
        if kind.IGNORE:
            dx = tl.where(counts[None, :], dx, 0.0)
        pointers = class_pointers(g_view, tile, c, kind)
        tl.store(pointers, dx.to(g.dtype.element_ty), mask=block.mask)


@triton.jit(do_not_specialize=SIZES)
def input_gradient_wide(
    g, g_bs: tl.int64, g_cs: tl.int64, g_s0: tl.int64, g_s1: tl.int64, g_s2: tl.int64,
    table, grad_loss, grad_ce,
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    t, t_bs: tl.int64, t_cs: tl.int64, t_s0: tl.int64, t_s1: tl.int64, t_s2: tl.int64,
    voxels: tl.int64, n1: tl.int64, n2: tl.int64, chunks: tl.int32, ignore: tl.int64,
    image_step: tl.int64,
    kind: tl.constexpr, bins: tl.constexpr,
):  # fmt: skip
    """Do the same for a softmax of more classes than a tile holds; four reads of the input."""
    x_view = View(x, x_bs, x_cs, x_s0, x_s1, x_s2)
    g_view = View(g, g_bs, g_cs, g_s0, g_s1, g_s2)
    t_view, sizes = View(t, t_bs, t_cs, t_s0, t_s1, t_s2), (n1, n2)
    chunk = tl.program_id(0) % chunks
    item = tl.program_id(0).to(tl.int64) // chunks
    lanes = tl.arange(0, kind.BLOCK_V)
    n = voxels.to(tl.int64) * kind.UNIT
    for number in range(chunk, tl.cdiv(n, kind.BLOCK_V).to(tl.int32), chunks):
        first = tl.cast(number, tl.int64) * kind.BLOCK_V
        tile = Tile(item, first, lanes, first + lanes < n, sizes)
        code, counts, _ = load_voxels(t_view, tile, ignore, kind)
        stats = wide_stats(x_view, tile, counts, kind)
        top = tl.zeros([kind.BLOCK_V], tl.float32)
        rest = tl.zeros([kind.BLOCK_V], tl.float32)
        nll = tl.zeros([kind.BLOCK_V], tl.float32)
        # The first time for the sums over the classes, the second for the gradient.
        for write in tl.static_range(2):
            for begin in range(0, kind.C, kind.BLOCK_C):
                block, logits = load_classes(x_view, tile, begin, counts, kind)
                in_c = block.in_c
                is_fg = load_foreground(t_view, tile, block, code, logits, kind)
                scale = _load_scale(grad_loss, item * image_step, block.c, in_c, kind.C)
                slope, factor = _look_up(
                    (table, scale, grad_ce), item * image_step, block, logits, is_fg, counts,
                    stats, kind.C, bins,
                )  # fmt: skip
                if write == 0:
                    more = _column_sums(logits, in_c, is_fg, stats, slope, factor, bins.ENTROPY)
                    top += more[0]
                    rest += more[1]
                    nll += more[2]
                else:
                    sums = (top, rest, nll)
                    dx = _softmax_gradient(
                        logits, in_c, is_fg, stats, slope, factor, sums, bins.ENTROPY
                    )
                    if kind.IGNORE:
                        dx = tl.where(counts[None, :], dx, 0.0)
                    pointers = class_pointers(g_view, tile, block.c, kind)
                    tl.store(pointers, dx.to(g.dtype.element_ty), mask=block.mask)
