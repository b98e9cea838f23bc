"""Which kernels a call of region_sums runs, and with which tiles: fixed rules, no autotuner.

Bytes per voxel, with e bytes per element of the input and l per label: forward e C + l, backward
2 e C + l, a dense target or weights in addition. Reads of the input from memory:

=====================================  =======  ========
kernels                                forward  backward
=====================================  =======  ========
tile (all of them but the next)        1        1
wide (a softmax of C > 128 classes)    3        4
=====================================  =======  ========

The wide kernels take 32 voxels of all classes at a time, 25 KB of 200 classes in float32, so that
all reads but the first should come from a cache.

Threads load neighbouring voxels of a class as one vector where the strides are multiples of it. Up
to 16 classes a thread holds all classes of its voxels, and the softmax needs no exchange. The
vectors are of 16 bytes as long as that is at most 32 elements in all; beyond, of 8 or 4, because
the same number of logits, exponentials and sums must stay in registers, and two programs more per
multiprocessor keep as many bytes on their way: a warp still reads 128 neighbouring bytes or more.
Above 16 classes, and where many terms need many sums, the classes are spread over the warps.
Beyond 16 classes that a sigmoid leaves independent, eight go to each program, which read
the labels again, one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from segloss_fast.ops._triton.plan import Plan
from segloss_fast.ops.region_sums.options import TERMS

BLOCK_TILES = 16  # tiles that are added in float32
PARTIALS = 96 * 1024  # float64 values: 768 KB
MIN_PROGRAMS, MAX_PROGRAMS = 132, 2048
MAX_TILE_CLASSES = 128
ELEMENTS = 32  # of the input that a thread holds; half of it above 16 classes
MANY_ROWS = 6  # above these it is half again
MOST_ROWS = 16  # and above these, up to 16 classes, once more: nearly all terms in one call
MAX_SUMS = 64  # that a thread keeps


@dataclass(frozen=True)
class Problem:
    """What the tiles depend on.

    Attributes:
        batch: Number of items.
        classes: Number of classes.
        voxels: Number of voxels of an item.
        itemsize: Bytes per element of the input.
        terms: The set of terms, one bit each.
        coupled: Whether a softmax couples the classes.
        layout: PLANES, CHANNELS_LAST or STRIDED.
        unit: 8, 4 or 1: divides the voxels and all strides that are passed in units.
    """

    batch: int
    classes: int
    voxels: int
    itemsize: int
    terms: int
    coupled: bool
    layout: int
    unit: int


def term_set(terms: tuple[str, ...]) -> int:
    """Return the names as one bit each."""
    return sum(1 << TERMS.index(name) for name in terms)


def row_order(terms: tuple[str, ...]) -> list[int]:
    """Return where each row goes, in the order of the bits of the set."""
    return [terms.index(name) for name in TERMS if name in terms]


def forward_plan(problem: Problem) -> Plan:
    """Return the tiles of the forward kernel."""
    rows = problem.terms.bit_count()
    block_c, block_v, fold, warps, wide = _tile(problem, rows)
    per_item = rows * problem.classes
    programs = min(MAX_PROGRAMS, max(MIN_PROGRAMS, PARTIALS // per_item))
    return _plan(problem, block_c, block_v, fold, warps, wide, programs)


def backward_plan(problem: Problem) -> Plan:
    """Return the tiles of the backward kernel."""
    block_c, block_v, fold, warps, wide = _tile(problem, problem.terms.bit_count())
    return _plan(problem, block_c, block_v, fold, warps, wide, 2 * MAX_PROGRAMS)


def _plan(
    problem: Problem, block_c: int, block_v: int, fold: int, warps: int, wide: bool, programs: int
) -> Plan:
    class_blocks = 1 if wide else -(-problem.classes // block_c)
    tiles = -(-problem.voxels // block_v)
    chunks = max(1, min(tiles, programs // (problem.batch * class_blocks)))
    unit = min(problem.unit, fold)
    return Plan(block_c, block_v, fold, warps, class_blocks, chunks, unit, wide)


def _tile(problem: Problem, rows: int) -> tuple[int, int, int, int, bool]:
    """Return classes, voxels, voxels per thread, warps, and whether the classes do not fit."""
    padded = 1 << (problem.classes - 1).bit_length()
    independent = padded > 16 and not problem.coupled
    elements = ELEMENTS if rows <= MANY_ROWS and not independent else ELEMENTS // 2
    per_thread = 16 // problem.itemsize  # one load of 16 bytes
    if problem.unit > 1:
        per_thread = min(per_thread, problem.unit)
    if problem.coupled and padded > 16:
        if problem.classes > MAX_TILE_CLASSES:
            return 32, elements, min(4, per_thread), 4, True
        block_v = elements * (2 if padded <= 64 else 1)
        return padded, block_v, min(4, per_thread), padded * block_v // (16 * elements), False
    block_c = padded if padded <= 16 else 8
    if rows > MOST_ROWS:
        elements = max(block_c, elements // 2)
    while per_thread * block_c > elements:
        per_thread //= 2
    over_classes = 1
    while rows * block_c > MAX_SUMS * over_classes:
        over_classes *= 2
    warps = max(4, over_classes)
    return block_c, 32 * per_thread * (warps // over_classes), per_thread, warps, False
