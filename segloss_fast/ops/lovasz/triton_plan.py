"""How the Triton kernels of lovasz cut their work: tiles, programs, replicas of the counters.

Forward and backward have the same tiles, so that both compute the same errors to the last bit. A
thread holds at most 16 elements of the input: each needs an address of 64 bits besides.
"""

from __future__ import annotations

from segloss_fast.ops._triton.plan import Plan
from segloss_fast.ops._triton.views import Tensors

BLOCK_TILES = 16  # tiles that are added in registers
ELEMENTS = 16  # of the input that a thread holds
MAX_TILE_CLASSES = 128
MAX_PROGRAMS = 2048
MAX_VOXELS = 1 << 22  # of one program
MAX_COUNT = (1 << 24) - 1  # voxels that a counter can hold
# Replicas of the counters lessen the contention for those of frequent bins; more than this would
# leave the second-level cache.
MAX_REPLICAS, REPLICAS_BYTES = 32, 16 << 20


def plan(tensors: Tensors, coupled: bool) -> Plan:
    """Return the tiles.

    Args:
        tensors: Of the call.
        coupled: Whether a softmax couples the classes.
    """
    block_c, block_v, fold, warps, wide = _tile(tensors, coupled)
    class_blocks = 1 if wide else -(-tensors.classes // block_c)
    tiles = -(-tensors.voxels // block_v)
    programs = MAX_PROGRAMS // (tensors.batch * class_blocks)
    chunks = min(tiles, max(1, programs, -(-tensors.voxels // MAX_VOXELS)))
    unit = min(tensors.unit, fold)
    return Plan(block_c, block_v, fold, warps, class_blocks, chunks, unit, wide)


def _tile(tensors: Tensors, coupled: bool) -> tuple[int, int, int, int, bool]:
    """Return classes, voxels, voxels per thread, warps, and whether the classes do not fit."""
    padded = 1 << (tensors.classes - 1).bit_length()
    per_thread = 16 // tensors.input.element_size()  # one load of 16 bytes
    if tensors.unit > 1:
        per_thread = min(per_thread, tensors.unit)
    if coupled and padded > 16:
        if tensors.classes > MAX_TILE_CLASSES:
            return 32, 32, min(4, per_thread), 4, True
        block_v = ELEMENTS * (2 if padded <= 64 else 1)
        return padded, block_v, min(4, per_thread), padded * block_v // (16 * ELEMENTS), False
    block_c = padded if padded <= 16 else 8
    while per_thread * block_c > ELEMENTS:
        per_thread //= 2
    return block_c, 32 * per_thread * 4, per_thread, 4, False


def replicas(tensors: Tensors, plan: Plan, counters: int) -> int:
    """Return how many replicas of so many counters the programs share.

    Enough that no counter can overflow, if all voxels fall into one bin.
    """
    programs = tensors.batch * plan.chunks
    tiles = -(-tensors.voxels // plan.block_v)
    most = -(-tiles // plan.chunks) * plan.block_v  # voxels of a program
    needed = -(-programs // (MAX_COUNT // most))
    wanted = min(MAX_REPLICAS, REPLICAS_BYTES // (8 * counters), programs)
    return max(1, needed, wanted)
