"""Sums over voxels by class: partial ones of each program, and their total in a fixed order."""

from collections.abc import Sequence

import triton
import triton.language as tl

from segloss_fast.ops._triton.tiles import TARGET_SIZES, voxel_pointers

# An order of rows is two int64, of so many digits of so many bits each: up to 24 rows.
ORDER_BITS = tl.constexpr(5)
ORDER_DIGITS = tl.constexpr(12)
ORDER_MASK = tl.constexpr((1 << ORDER_BITS.value) - 1)


def pack_order(rows: Sequence[int]) -> tuple[int, int]:
    """Return an order of rows as two numbers: it is an argument of kernels, and makes no new ones.

    Args:
        rows: Where the first of the rows that a kernel keeps goes, the second, and so on.
    """
    digits, bits = ORDER_DIGITS.value, ORDER_BITS.value
    if len(rows) > 2 * digits or max(rows) >= 1 << bits:
        raise ValueError(f"at most {2 * digits} rows have an order, got {list(rows)}")
    low, high = (
        sum(row << (bits * place) for place, row in enumerate(part))
        for part in (rows[:digits], rows[digits:])
    )
    return low, high


@triton.jit
def row_of(low, high, place):
    """Return the row at a place of a packed order, which may be a tile of places."""
    place = tl.cast(place, tl.int64)  # of a constant, too
    word = tl.where(place < ORDER_DIGITS, low, high)
    return (word >> ((place % ORDER_DIGITS) * ORDER_BITS)) & ORDER_MASK


@triton.jit
def store_sums(partials, program, sums, c, in_c, fresh, C: tl.constexpr):
    """Add sums ``[C, lanes]`` to the program's row of partials ``[K, C]``, or begin a fresh one."""
    K: tl.constexpr = len(sums)
    for k in tl.static_range(K):
        pointers = partials + (program * K + k) * C + c
        before = tl.where(fresh, 0.0, tl.load(pointers, mask=in_c, other=0.0))
        tl.store(pointers, before + tl.sum(sums[k], 1).to(tl.float64), mask=in_c)
    tl.debug_barrier()  # the next load may be another thread's


@triton.jit
def store_flags(flags, program, origin, lanes, bad_count, bad_tile, BLOCK_V: tl.constexpr):
    """Write how many labels are invalid, and where the first is, counted over the whole batch."""
    at = origin + bad_tile.to(tl.int64) * BLOCK_V + lanes
    at = tl.where(bad_count > 0, at.to(tl.float64), float("inf"))
    tl.store(flags + 2 * program, tl.sum(bad_count, 0).to(tl.float64))
    tl.store(flags + 2 * program + 1, tl.min(at, 0))


@triton.jit
def read_flags(flags, programs, LANES: tl.constexpr):
    """Return the number of invalid labels of the batch, and the index of the first."""
    lanes = tl.arange(0, LANES)
    total = tl.zeros([LANES], tl.float64)
    first = tl.full([LANES], float("inf"), tl.float64)
    for start in range(0, programs, LANES):
        inside = start + lanes < programs
        total += tl.load(flags + 2 * (start + lanes), mask=inside, other=0.0)
        at = tl.load(flags + 2 * (start + lanes) + 1, mask=inside, other=float("inf"))
        first = tl.minimum(first, at)
    return tl.sum(total, 0), tl.min(first, 0)


# Their values must not make new kernels.
SIZES = ("batch", "chunks", "order_low", "order_high", *TARGET_SIZES, "voxels", "n1", "n2")


@triton.jit(do_not_specialize=SIZES)
def total_sums(
    rows,
    invalid,
    partials,
    flags,
    t,
    t_bs: tl.int64,
    t_cs: tl.int64,
    t_s0: tl.int64,
    t_s1: tl.int64,
    t_s2: tl.int64,
    voxels: tl.int64,
    n1: tl.int64,
    n2: tl.int64,
    batch: tl.int32,
    chunks: tl.int32,
    order_low: tl.int64,
    order_high: tl.int64,
    K: tl.constexpr,
    C: tl.constexpr,
    DENSE: tl.constexpr,
    LAYOUT: tl.constexpr,
    UNIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Add the partials of an item: rows ``[K, B, C]``, and invalid ``[2]``: number, first value.

    The rows leave in an order (see row_of). All are NaN if a label anywhere in the batch is
    invalid.
    """
    item = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < K * C
    total = tl.zeros([ROWS, COLUMNS], tl.float64)
    for start in range(0, chunks, ROWS):
        chunk = start + tl.arange(0, ROWS)
        pointers = partials + ((item * chunks + chunk) * (K * C))[:, None] + column[None, :]
        mask = (chunk < chunks)[:, None] & inside[None, :]
        total += tl.load(pointers, mask=mask, other=0.0)
    sums = tl.sum(total, 0)
    count = 0.0
    value = 0.0
    if not DENSE:
        count, first = read_flags(flags, batch * chunks, ROWS)
        sums = tl.where(count > 0, float("nan"), sums)
        at = tl.where(count > 0, first, 0.0).to(tl.int64)
        n = voxels.to(tl.int64) * UNIT
        view = (t, t_bs, t_cs, t_s0, t_s1, t_s2)
        label = voxel_pointers(view, at // n, at % n, 0, (n1, n2), LAYOUT, UNIT)
        label = tl.load(label, mask=count > 0, other=0)
        value = label.to(tl.float64)
    row = row_of(order_low, order_high, column // C)
    tl.store(rows + (row * batch + item) * C + column % C, sums, mask=inside)
    if (item == 0) & (tl.program_id(1) == 0):
        tl.store(invalid, count)
        tl.store(invalid + 1, value)
