"""The forward kernel of a softmax against class indices, of which most terms see one class each.

Per logit it spends one exponential and a handful of instructions:

- A voxel adds to the sums of its own class only, but for ``pred`` and ``fp``. That is one
  comparison and an addition per term, carried out or not, instead of products with zeros.
- Logarithms of sums of exponentials are not added: the sums are multiplied, up to LOG_TILES tiles
  of them, which stay below the largest float32, and a logarithm is taken of the product. Its error
  is that of the factors' own rounding.
- Up to four classes are counted in the bytes of a number.
- Whole tiles are read without masks; what is left at the end of an item is a tile of its own.
- Labels are only compared. Of those that no class has, the largest is kept; where there was one,
  the labels are read again, to count them.
"""

import triton
import triton.language as tl

from segloss_fast.ops._triton.sums import store_flags, store_sums
from segloss_fast.ops._triton.tiles import Tile, View, load_voxels
from segloss_fast.ops.region_sums.triton_activations import SOFTMAX
from segloss_fast.ops.region_sums.triton_forward import SIZES
from segloss_fast.ops.region_sums.triton_terms import LOGS, bits
from segloss_fast.ops.region_sums.triton_tiles import (
    SERVED,
    SPREAD,
    add_tile,
    as_rows,
    fresh,
    with_logs,
)


def serves(classes: int, formula: tuple[int, ...], weight: int) -> bool:
    """Return whether the kernel has these terms; the formula is a Formula."""
    terms, act, ce_act, _, hard = formula
    softmax = act == SOFTMAX.value and (not terms & LOGS.value or ce_act == SOFTMAX.value)
    if not hard or not softmax or weight != 0 or classes == 1 or terms & ~SERVED.value:
        return False
    return not terms & SPREAD.value or bool(terms & bits("pred"))


@triton.jit
def _store_invalid(
    flags, program, t_view, item, chunk, chunks, tiles, n, lanes, sizes, ignore, kind: tl.constexpr
):  # fmt: skip
    """Read the program's labels again, and write how many are invalid, and where the first is."""
    bad_count = tl.zeros([kind.BLOCK_V], tl.int32)
    bad_tile = tl.full([kind.BLOCK_V], 0x7FFFFFFF, tl.int32)
    for number in range(chunk, tiles, chunks):
        first = tl.cast(number, tl.int64) * kind.BLOCK_V
        tile = Tile(item, first, lanes, first + lanes < n, sizes)
        _, _, bad = load_voxels(t_view, tile, ignore, kind)
        bad_count += bad.to(tl.int32)
        bad_tile = tl.where(bad & (bad_tile > number), number, bad_tile)
    store_flags(flags, program, item * n, lanes, bad_count, bad_tile, kind.BLOCK_V)


@triton.jit(do_not_specialize=SIZES)
def partial_sums(
    partials, flags,
    x, x_bs: tl.int64, x_cs: tl.int64, x_s0: tl.int64, x_s1: tl.int64, x_s2: tl.int64,
    t, t_bs: tl.int64, t_cs: tl.int64, t_s0: tl.int64, t_s1: tl.int64, t_s2: tl.int64,
    w, w_bs: tl.int64, w_cs: tl.int64, w_s0: tl.int64, w_s1: tl.int64, w_s2: tl.int64,
    voxels: tl.int64, n1: tl.int64, n2: tl.int64, chunks: tl.int32, ignore: tl.int64,
    gamma: tl.float32,
    kind: tl.constexpr, formula: tl.constexpr, LOG_TILES: tl.constexpr, BLOCK_TILES: tl.constexpr,
):  # fmt: skip
    """Write partials ``[B * chunks, K, C]``, and flags ``[B * chunks, 2]`` of invalid labels."""
    x_view, sizes = View(x, x_bs, x_cs, x_s0, x_s1, x_s2), (n1, n2)
    t_view = View(t, t_bs, t_cs, t_s0, t_s1, t_s2)
    LANES: tl.constexpr = kind.BLOCK_V // kind.FOLD
    chunk = tl.program_id(0) % chunks
    program = tl.program_id(0).to(tl.int64)
    item = program // chunks
    c, lanes = tl.arange(0, kind.BLOCK_C), tl.arange(0, kind.BLOCK_V)
    n = voxels.to(tl.int64) * kind.UNIT
    whole = (n // kind.BLOCK_V).to(tl.int32)
    every = tl.full([kind.BLOCK_V], 1, tl.int1)  # no masks
    worst = tl.zeros([1, LANES], tl.uint32)
    for start in range(chunk, whole, chunks * BLOCK_TILES):
        sums = fresh(formula, kind.BLOCK_C, LANES)
        end = min(start + chunks * BLOCK_TILES, whole)
        for group in range(start, end, chunks * LOG_TILES):
            product = tl.full([kind.BLOCK_C, LANES], 1.0, tl.float32)
            for number in range(group, min(group + chunks * LOG_TILES, end), chunks):
                tile = Tile(item, tl.cast(number, tl.int64) * kind.BLOCK_V, lanes, every, sizes)
                sums, product, worst = add_tile(
                    sums, product, worst, x_view, t_view, tile, c, ignore, gamma, True, kind,
                    formula,
                )  # fmt: skip
            sums = with_logs(sums, product, formula)
        sums = as_rows(sums, c, formula)
        store_sums(partials, program, sums, c, c < kind.C, start == chunk, kind.C)
    first = whole.to(tl.int64) * kind.BLOCK_V
    if (first < n) & (whole % chunks == chunk):
        sums = fresh(formula, kind.BLOCK_C, LANES)
        product = tl.full([kind.BLOCK_C, LANES], 1.0, tl.float32)
        tile = Tile(item, first, lanes, first + lanes < n, sizes)
        sums, product, worst = add_tile(
            sums, product, worst, x_view, t_view, tile, c, ignore, gamma, False, kind, formula
        )
        sums = as_rows(with_logs(sums, product, formula), c, formula)
        store_sums(partials, program, sums, c, c < kind.C, whole == chunk, kind.C)
    if tl.max(tl.max((worst >= kind.C).to(tl.int32), 1), 0) > 0:
        tiles = tl.cdiv(n, kind.BLOCK_V).to(tl.int32)
        _store_invalid(
            flags, program, t_view, item, chunk, chunks, tiles, n, lanes, sizes, ignore, kind
        )
    else:
        tl.store(flags + 2 * program, 0.0)
        tl.store(flags + 2 * program + 1, float("inf"))
