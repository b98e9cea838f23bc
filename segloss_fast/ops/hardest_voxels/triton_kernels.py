"""The Triton kernels that find the k-th largest key digit by digit, and turn keys into weights.

There is no kernel between the passes: each program of a pass first finds the digit that the last
one counted, from 256 counters. Only the first of them writes down what was found, in a place of its
own, so that no program reads what another one of its launch writes. All that is added up by atomic
operations are integers: their order does not matter.
"""

from __future__ import annotations

import triton
import triton.language as tl

from segloss_fast.ops.hardest_voxels.triton_entropy import DIGITS, SIGN, SMALLEST

STAGES = tl.constexpr(4)  # digits of a key
# No kernel is compiled again for other sizes.
COUNT_SIZES = ("k_bits", "stage", "size")
WEIGH_SIZES = ("k_bits", "voxels", "chunks")
SUM_SIZES = ("k_bits", "batch")


@triton.jit
def _found(counters, states, k_bits, stage):
    """Return, of the k-th largest key, the first ``stage`` digits, as a signed number.

    And how many of the keys that begin with them are wanted, and how many there are.

    Args:
        counters: ``[4, 256]``, of the keys with the digits found before, by the next one.
        states: ``[4, 2]``, of every stage the first two of these results.
        k_bits: k, in percent, the bits of a float64: as a number it would become a float32.
        stage: 1 to 4.
    """
    digits = tl.arange(0, DIGITS)
    counts = tl.load(counters + (stage - 1) * DIGITS + digits)
    total = tl.sum(counts, 0)
    prefix = tl.load(states + 2 * (stage - 1))
    wanted = tl.load(states + 2 * (stage - 1) + 1)
    # The same roundings as in the reference. The first counters are of all voxels that count.
    k = k_bits.to(tl.int64).to(tl.float64, bitcast=True)
    share = tl.floor(total.to(tl.float64) * k / 100).to(tl.int64)
    share = tl.minimum(tl.maximum(share, 1), total)
    wanted = tl.where(stage == 1, share, wanted)
    reached = total - tl.cumsum(counts, 0) + counts  # by keys of this digit and larger ones
    digit = tl.sum((reached >= wanted).to(tl.int64), 0) - 1
    above = tl.sum(tl.where(digits > digit, counts, 0), 0)
    here = tl.sum(tl.where(digits == digit, counts, 0), 0)
    prefix = prefix * DIGITS + digit - tl.where(stage == 1, SIGN, 0)
    return prefix, wanted - above, here


@triton.jit
def _threshold(counters, states, k_bits):
    """Return the k-th largest key, and what those equal to it share, as the map holds it."""
    key, wanted, ties = _found(counters, states, k_bits, STAGES)
    share = wanted.to(tl.float64) / tl.maximum(ties, 1).to(tl.float64)
    return key.to(tl.int32), share.to(tl.float32)


@triton.jit(do_not_specialize=COUNT_SIZES)
def count_digits(
    keys, counters, states, k_bits: tl.int64, stage: tl.int32, size: tl.int64,
    UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add the digits number ``stage`` of the keys with those found before to the counters.

    UNIT: what the size was divided by, so that the compiler sees that it may load vectors.
    """
    prefix, wanted, _ = _found(counters, states, k_bits, stage)
    if tl.program_id(0) == 0:
        tl.store(states + 2 * stage, prefix)
        tl.store(states + 2 * stage + 1, wanted)
    prefix = prefix.to(tl.int32)
    shift = 24 - 8 * stage
    found = tl.zeros([DIGITS], tl.int32)
    n = size.to(tl.int64) * UNIT
    for block in range(tl.program_id(0), tl.cdiv(n, BLOCK).to(tl.int32), tl.num_programs(0)):
        at = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        key = tl.load(keys + at, mask=at < n, other=SMALLEST)
        same = (at < n) & ((key >> (shift + 8)) == prefix)
        found += tl.histogram((key >> shift) & (DIGITS - 1), DIGITS, mask=same)
    place = counters + stage * DIGITS + tl.arange(0, DIGITS)
    tl.atomic_add(place, found.to(tl.int64), mask=found > 0, sem="relaxed")


@triton.jit(do_not_specialize=WEIGH_SIZES)
def weigh(
    weights, numbers, counters, states, k_bits: tl.int64, voxels: tl.int64, chunks: tl.int32,
    UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Replace keys ``[B, voxels]``, whose bits ``weights`` holds, by weights.

    Adds to numbers ``[B, 2]`` how many of an item's keys are above the threshold, and equal to it.
    """
    threshold, share = _threshold(counters, states, k_bits)
    chunk = tl.program_id(0) % chunks
    item = (tl.program_id(0) // chunks).to(tl.int64)
    n = voxels.to(tl.int64) * UNIT
    above = tl.zeros([BLOCK], tl.int32)
    ties = tl.zeros([BLOCK], tl.int32)
    for block in range(chunk, tl.cdiv(n, BLOCK).to(tl.int32), chunks):
        at = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
        place = weights + item * n + at
        key = tl.load(place, mask=at < n, other=0.0).to(tl.int32, bitcast=True)
        is_above = key > threshold
        is_tie = key == threshold
        tl.store(place, tl.where(is_above, 1.0, tl.where(is_tie, share, 0.0)), mask=at < n)
        above += ((at < n) & is_above).to(tl.int32)
        ties += ((at < n) & is_tie).to(tl.int32)
    tl.atomic_add(numbers + 2 * item, tl.sum(above, 0).to(tl.int64), sem="relaxed")
    tl.atomic_add(numbers + 2 * item + 1, tl.sum(ties, 0).to(tl.int64), sem="relaxed")


@triton.jit(do_not_specialize=SUM_SIZES)
def sum_weights(
    sums, numbers, counters, states, k_bits: tl.int64, batch: tl.int64, BLOCK: tl.constexpr
):
    """Write the sum of the weights of each item ``[B]``."""
    _, share = _threshold(counters, states, k_bits)
    item = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = item < batch
    above = tl.load(numbers + 2 * item, mask=inside, other=0).to(tl.float64)
    ties = tl.load(numbers + 2 * item + 1, mask=inside, other=0).to(tl.float64)
    tl.store(sums + item, above + share.to(tl.float64) * ties, mask=inside)
