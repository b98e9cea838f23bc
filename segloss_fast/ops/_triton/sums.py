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
        # Of a fresh row nothing is read: it has no values yet.
        before = tl.load(pointers, mask=in_c & (not fresh), other=0.0)
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
def _first_invalid(flags, programs, LANES: tl.constexpr):
    """Return the index of the first invalid label of the batch."""
    lanes = tl.arange(0, LANES)
    first = tl.full([LANES], float("inf"), tl.float64)
    for start in range(0, programs, LANES):
        inside = start + lanes < programs
        at = tl.load(flags + 2 * (start + lanes) + 1, mask=inside, other=float("inf"))
        first = tl.minimum(first, at)
    return tl.min(first, 0)


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
    invalid. Up to ROWS programs of the first kernel no loop is entered: all that is read is asked
    for before the first of it is waited for. Which label is the first is only looked up if there is
    an invalid one.
    """
    item = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < K * C
    lanes = tl.arange(0, ROWS)
    bad = tl.zeros([ROWS], tl.float64)
    if not DENSE:
        bad = tl.load(flags + 2 * lanes, mask=lanes < batch * chunks, other=0.0)
    pointers = partials + item * chunks * (K * C) + (lanes * (K * C))[:, None] + column[None, :]
    mask = (lanes < chunks)[:, None] & inside[None, :]
    total = tl.load(pointers, mask=mask, other=0.0)
    for start in range(ROWS, chunks, ROWS):
        pointers += ROWS * K * C
        mask = (start + lanes < chunks)[:, None] & inside[None, :]
        total += tl.load(pointers, mask=mask, other=0.0)
    sums = tl.sum(total, 0)
    count = 0.0
    if not DENSE:
        for start in range(ROWS, batch * chunks, ROWS):
            more = start + lanes
            bad += tl.load(flags + 2 * more, mask=more < batch * chunks, other=0.0)
        count = tl.sum(bad, 0)
        sums = tl.where(count > 0, float("nan"), sums)
    row = row_of(order_low, order_high, column // C)
    tl.store(rows + (row * batch + item) * C + column % C, sums, mask=inside)
    if (item == 0) & (tl.program_id(1) == 0):
        tl.store(invalid, count)
        tl.store(invalid + 1, 0.0)
        if not DENSE:  # noqa: SIM102 - known when it is compiled, the other is not
            if count > 0:
                at = _first_invalid(flags, batch * chunks, ROWS).to(tl.int64)
                n = voxels.to(tl.int64) * UNIT
                view = (t, t_bs, t_cs, t_s0, t_s1, t_s2)
                label = voxel_pointers(view, at // n, at % n, 0, (n1, n2), LAYOUT, UNIT)
                tl.store(invalid + 1, tl.load(label).to(tl.float64))
