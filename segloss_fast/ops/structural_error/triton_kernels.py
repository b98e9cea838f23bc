"""The Triton kernels of structural_error: moments of windows axis by axis, and the way back.

A program owns a tile of voxels that neighbour each other along an axis and in memory. Of a group of
planes it sees a map as ``[outer, rows, cols]``: the axis is that of the rows, and columns run over
all that follows it; of the last axis it is that of the columns, and rows are lines of all planes.
What lies beyond the border is 0. Windows are symmetric, so that the derivative gathers as well:
every voxel is written by one program, which reads nothing that another one writes.

Bytes moved per voxel in float32, of three axes, where the caches keep a window's neighbours: an
axis reads mean and variance and writes them, and the first and the last also read the map in place;
of both maps 84 in all, and the target twice. Backward does so again, with what rounding left of the
means besides; each axis on the way back reads 20 and writes 8, the last of them 4: 188 in all, and
the target twice.
"""

from __future__ import annotations

import triton
import triton.language as tl

from segloss_fast.ops.structural_error.triton_windows import (
    address,
    gradients,
    moments,
    place_of,
    reach_of,
    tile,
)

WIDEST = tl.constexpr(128)  # of the tile of weights: at least kernels.MAX_WINDOW

NORMALIZED = tl.constexpr(0)  # what finish writes
ERROR = tl.constexpr(1)
GRADIENTS = tl.constexpr(2)

# No kernel is compiled again for other sizes.
X_STRIDES = ("x_bs", "x_cs", "x_s0", "x_s1", "x_s2")
OUT_STRIDES = ("o_bs", "o_cs", "o_s0", "o_s1", "o_s2")
GRAD_STRIDES = ("g_bs", "g_cs", "g_s0", "g_s1", "g_s2")
TILING = ("rows", "cols", "row_blocks", "col_blocks", "radius")
PLACING = ("plane", "channels", "first", "n0", "n1", "n2")


@triton.jit(do_not_specialize=("radius", "sigma"))
def window_weights(window, radius: tl.int32, sigma: tl.float64):
    """Write the weights along an axis, which add up to 1; computed in float64."""
    d = tl.arange(0, WIDEST)
    apart = (d - radius).to(tl.float64)
    exists = d <= 2 * radius
    scale = tl.full([], sigma, tl.float64)  # as a tensor: the interpreter passes a float
    weight = tl.where(exists, tl.exp(-0.5 * apart * apart / (scale * scale)), 0.0)
    weight = weight / tl.sum(weight, 0)
    tl.store(window + d, weight.to(window.dtype.element_ty), mask=exists)


@triton.jit
def _root(x):
    return tl.sqrt(x) if x.dtype == tl.float64 else tl.sqrt_rn(x)


@triton.jit
def _ratio(x, y):
    return x / y if x.dtype == tl.float64 else tl.div_rn(x, y)


@triton.jit(do_not_specialize=(*X_STRIDES, *TILING, *PLACING))
def first_moments(
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    mean_out, variance_out, rest_out, window, radius: tl.int32,
    rows: tl.int64, cols: tl.int64, row_blocks: tl.int32, col_blocks: tl.int32,
    plane: tl.int64, channels: tl.int64, first: tl.int64, n0: tl.int64, n1: tl.int64, n2: tl.int64,
    REST: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Write the moments along the last axis, from the map x read in place; and REST the rest."""
    rows, cols = rows.to(tl.int64), cols.to(tl.int64)
    outer, row, col = tile(rows, cols, row_blocks, col_blocks)
    exists = (row < rows) & (col < cols)
    place = place_of(outer, row, col, (plane, channels, first, n0, n1, n2), True, UNIT)
    here = address(x, place, (x_bs, x_cs, x_s0, x_s1, x_s2), UNIT)
    step = 1 if UNIT else x_s2.to(tl.int64)
    reach = reach_of(col, cols, exists, radius)
    mean, variance, rest = moments(here, here, step, reach, exists, window, radius, False)
    at = row * cols + col
    tl.store(mean_out + at, mean, mask=exists)
    tl.store(variance_out + at, variance, mask=exists)
    if REST:
        tl.store(rest_out + at, rest, mask=exists)


@triton.jit(do_not_specialize=TILING)
def moments_along(
    mean_in, variance_in, mean_out, variance_out, rest_out, window, radius: tl.int32,
    rows: tl.int64, cols: tl.int64, row_blocks: tl.int32, col_blocks: tl.int32,
    REST: tl.constexpr,
):  # fmt: skip
    """Write the moments along an axis that is neither the first nor the last; REST as there."""
    rows, cols = rows.to(tl.int64), cols.to(tl.int64)
    outer, row, col = tile(rows, cols, row_blocks, col_blocks)
    exists = (row < rows) & (col < cols)
    at = (outer * rows + row) * cols + col
    reach = reach_of(row, rows, exists, radius)
    m, v = mean_in + at, variance_in + at
    mean, variance, rest = moments(m, v, cols, reach, exists, window, radius, True)
    tl.store(mean_out + at, mean, mask=exists)
    tl.store(variance_out + at, variance, mask=exists)
    if REST:
        tl.store(rest_out + at, rest, mask=exists)


@triton.jit(
    do_not_specialize=(*X_STRIDES, *OUT_STRIDES, *GRAD_STRIDES, "constant", *TILING, *PLACING)
)
def finish(
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    out, o_bs: tl.int64, o_cs: tl.int64, o_s0: tl.int64, o_s1: tl.int64, o_s2: tl.int64,
    grad, g_bs: tl.int64, g_cs: tl.int64, g_s0: tl.int64, g_s1: tl.int64, g_s2: tl.int64,
    mean_in, variance_in, mean_out, grad_mean, grad_variance, constant: tl.float64,
    window, radius: tl.int32,
    rows: tl.int64, cols: tl.int64, row_blocks: tl.int32, col_blocks: tl.int32,
    plane: tl.int64, channels: tl.int64, first: tl.int64, n0: tl.int64, n1: tl.int64, n2: tl.int64,
    RESULT: tl.constexpr, ONLY: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Normalize the map x by the moments of its windows, formed along the axis that is left.

    ONLY: there is but one axis, and the moments are those of x itself. By RESULT:

    * NORMALIZED: out becomes n = (x - mean + c) / (deviation + c).
    * ERROR: out, which is that of the target, becomes its distance from n.
    * GRADIENTS: out, which is that of the target, becomes the gradient at fixed moments; the mean,
      and the gradients of mean and variance, are written besides.
    """
    rows, cols = rows.to(tl.int64), cols.to(tl.int64)
    outer, row, col = tile(rows, cols, row_blocks, col_blocks)
    exists = (row < rows) & (col < cols)
    place = place_of(outer, row, col, (plane, channels, first, n0, n1, n2), ONLY, UNIT)
    here = address(x, place, (x_bs, x_cs, x_s0, x_s1, x_s2), UNIT)
    to = address(out, place, (o_bs, o_cs, o_s0, o_s1, o_s2), UNIT)
    at = (outer * rows + row) * cols + col
    if ONLY:
        reach, step = reach_of(col, cols, exists, radius), 1 if UNIT else x_s2.to(tl.int64)
        mean, variance, rest = moments(here, here, step, reach, exists, window, radius, False)
    else:
        reach = reach_of(row, rows, exists, radius)
        m, v = mean_in + at, variance_in + at
        mean, variance, rest = moments(m, v, cols, reach, exists, window, radius, True)
    dtype: tl.constexpr = window.dtype.element_ty
    c = tl.full([], constant, dtype)  # as a tensor: the interpreter passes a float
    own = tl.load(here, exists, 0).to(dtype)
    deviation = tl.where(variance > 0, _root(variance), 0.0)  # 0 of NaN, as in the reference
    spread = deviation + c
    n = _ratio(own - mean + c, spread)
    if RESULT == NORMALIZED:
        tl.store(to, n, mask=exists)
    elif RESULT == ERROR:
        tl.store(to, tl.abs(tl.load(to, exists, 0) - n), mask=exists)
    else:
        t = tl.load(to, exists, 0)
        g = tl.load(address(grad, place, (g_bs, g_cs, g_s0, g_s1, g_s2), UNIT), exists, 0)
        sign = (n > t).to(dtype) - (n < t).to(dtype)
        direct = _ratio(sign * g, spread)
        # Where all of a window is equal the derivative of the root is taken as 0.
        root = tl.where(variance > 0, 2 * deviation, 1.0)
        tl.store(to, direct, mask=exists)
        tl.store(mean_out + at, mean, mask=exists)
        seed = tl.where(variance > 0, _ratio(-n * direct, root), 0.0)
        tl.store(grad_mean + at, -direct - 2 * seed * rest, mask=exists)
        tl.store(grad_variance + at, seed, mask=exists)


@triton.jit(do_not_specialize=TILING)
def differentiate_along(
    mean, grad_mean, grad_variance, mean_in, grad_mean_in, grad_variance_in,
    window, radius: tl.int32,
    rows: tl.int64, cols: tl.int64, row_blocks: tl.int32, col_blocks: tl.int32,
):  # fmt: skip
    """Write the gradients of the moments that an axis got, from those of the ones it made.

    grad_mean_in holds the rest of the moments in question before.
    """
    rows, cols = rows.to(tl.int64), cols.to(tl.int64)
    outer, row, col = tile(rows, cols, row_blocks, col_blocks)
    exists = (row < rows) & (col < cols)
    at = (outer * rows + row) * cols + col
    own = tl.load(mean_in + at, exists, 0)
    reach = reach_of(row, rows, exists, radius)
    here = mean + at, grad_mean + at, grad_variance + at
    dm, dv = gradients(here, own, cols, reach, window, radius, True)
    rest = tl.load(grad_mean_in + at, exists, 0)
    tl.store(grad_mean_in + at, dm - 2 * dv * rest, mask=exists)
    tl.store(grad_variance_in + at, dv, mask=exists)


@triton.jit(do_not_specialize=(*X_STRIDES, *OUT_STRIDES, *TILING, *PLACING))
def differentiate_first(
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    out, o_bs: tl.int64, o_cs: tl.int64, o_s0: tl.int64, o_s1: tl.int64, o_s2: tl.int64,
    mean, grad_mean, grad_variance, window, radius: tl.int32,
    rows: tl.int64, cols: tl.int64, row_blocks: tl.int32, col_blocks: tl.int32,
    plane: tl.int64, channels: tl.int64, first: tl.int64, n0: tl.int64, n1: tl.int64, n2: tl.int64,
    UNIT: tl.constexpr,
):  # fmt: skip
    """Add to out the gradient of the map x through its moments along the last axis."""
    rows, cols = rows.to(tl.int64), cols.to(tl.int64)
    outer, row, col = tile(rows, cols, row_blocks, col_blocks)
    exists = (row < rows) & (col < cols)
    place = place_of(outer, row, col, (plane, channels, first, n0, n1, n2), True, UNIT)
    own = tl.load(address(x, place, (x_bs, x_cs, x_s0, x_s1, x_s2), UNIT), exists, 0)
    to = address(out, place, (o_bs, o_cs, o_s0, o_s1, o_s2), UNIT)
    at = row * cols + col
    reach = reach_of(col, cols, exists, radius)
    here = mean + at, grad_mean + at, grad_variance + at
    dm, _ = gradients(here, own, 1, reach, window, radius, False)
    tl.store(to, tl.load(to, exists, 0) + dm, mask=exists)
