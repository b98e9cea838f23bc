"""Tiles of the kernels that add up terms of all voxels: fixed rules, no autotuner.

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

from segloss_fast.ops._triton.plan import Plan, rounded
from segloss_fast.ops._triton.views import Tensors

BLOCK_TILES = 16  # tiles that are added in float32
PARTIALS = 112 * 1024  # float64 values: 896 KB
MIN_PROGRAMS, MAX_PROGRAMS = 132, 1584
MAX_TILE_CLASSES = 128
ELEMENTS = 32  # of the input that a thread holds; half of it above 16 classes
MANY_ROWS = 6  # above these it is half again
MOST_ROWS = 16  # and above these, up to 16 classes, once more: nearly all terms in one call
MAX_SUMS = 64  # that a thread keeps
EXPONENT = 126  # of a product, at most


def programs_for(values: int) -> int:
    """Return how many programs there are at most whose sums are so many each."""
    return rounded(PARTIALS // values, MIN_PROGRAMS, MAX_PROGRAMS)


def forward_plan(tensors: Tensors, rows: int, coupled: bool, larger: bool = False) -> Plan:
    """Return the tiles of a forward kernel.

    Args:
        tensors: Of the call.
        rows: How many sums there are of each item and class.
        coupled: Whether a softmax couples the classes.
        larger: Whether tiles of more than 16 classes are larger, for kernels that keep less.
    """
    block_c, block_v, fold, warps, wide = _tile(tensors, rows, coupled, larger)
    programs = programs_for(rows * tensors.classes)
    return _plan(tensors, block_c, block_v, fold, warps, wide, programs)


def tiles_of_labels(plan: Plan, classes: int) -> tuple[int, int]:
    """Return of how many tiles logarithms are taken together, and how many are added in float32.

    A sum of exponentials is at most the number of classes: so many factors stay below the largest
    float32. A thread adds up to 128 voxels.
    """
    of_factor = (classes - 1).bit_length() * plan.fold
    logs = max(1, min(BLOCK_TILES, EXPONENT // of_factor))
    return logs, logs * max(1, 8 * BLOCK_TILES // (logs * plan.fold))


def backward_plan(tensors: Tensors, rows: int, coupled: bool) -> Plan:
    """Return the tiles of a backward kernel; arguments as in :func:`forward_plan`."""
    block_c, block_v, fold, warps, wide = _tile(tensors, rows, coupled)
    return _plan(tensors, block_c, block_v, fold, warps, wide, 2 * MAX_PROGRAMS)


def _plan(
    tensors: Tensors, block_c: int, block_v: int, fold: int, warps: int, wide: bool, programs: int
) -> Plan:
    class_blocks = 1 if wide else -(-tensors.classes // block_c)
    tiles = -(-tensors.voxels // block_v)
    chunks = max(1, min(tiles, programs // (tensors.batch * class_blocks)))
    unit = min(tensors.unit, fold)
    return Plan(block_c, block_v, fold, warps, class_blocks, chunks, unit, wide)


def _tile(
    tensors: Tensors, rows: int, coupled: bool, larger: bool = False
) -> tuple[int, int, int, int, bool]:
    """Return classes, voxels, voxels per thread, warps, and whether the classes do not fit."""
    padded = 1 << (tensors.classes - 1).bit_length()
    independent = padded > 16 and not coupled
    elements = ELEMENTS if rows <= MANY_ROWS and not independent else ELEMENTS // 2
    per_thread = 16 // tensors.input.element_size()  # one load of 16 bytes
    if tensors.unit > 1:
        per_thread = min(per_thread, tensors.unit)
    if coupled and padded > 16:
        if tensors.classes > MAX_TILE_CLASSES:
            return 32, elements, min(4, per_thread), 4, True
        if larger:
            elements *= 2
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
