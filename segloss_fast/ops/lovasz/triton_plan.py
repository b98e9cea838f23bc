"""How the Triton kernels of lovasz cut their work: tiles, programs, replicas of the counters.

Forward and backward must compute the same errors to the last bit, so where several threads share
the classes of a voxel, and add up exponentials in the order of the tiles, both have the same tiles.
Where a thread holds all classes of its voxels, only the backward kernel loads vectors: counters'
addresses are spread over the threads one by one, and vectors would have to be exchanged for that.
"""

from __future__ import annotations

from segloss_fast.ops._triton.plan import PLANES, Plan
from segloss_fast.ops._triton.views import Tensors

BLOCK_TILES = 16  # tiles that are added in registers; times the voxels per thread, at most 255
COUNT_ELEMENTS = 8  # of the input that a thread holds: each needs an address of 64 bits besides
BACKWARD_ELEMENTS = 16
MAX_TILE_CLASSES = 128
THREAD_CLASSES = 16  # up to so many classes a thread holds all of a voxel
MAX_PROGRAMS = 2048
MAX_VOXELS = 1 << 22  # of one program
MAX_COUNT = (1 << 24) - 1  # voxels that a counter can hold
# Replicas of the counters lessen the contention for those of frequent bins; more than this would
# leave the second-level cache.
MAX_REPLICAS, REPLICAS_BYTES = 32, 16 << 20


def count_plan(tensors: Tensors, coupled: bool) -> Plan:
    """Return the tiles of the forward kernel.

    Args:
        tensors: Of the call.
        coupled: Whether a softmax couples the classes.
    """
    shared = _shared(tensors, coupled)
    if shared is not None:
        return shared
    block_c = _classes(tensors, coupled)
    return _plan(tensors, block_c, max(1, COUNT_ELEMENTS // block_c), 1)


def backward_plan(tensors: Tensors, coupled: bool) -> Plan:
    """Return the tiles of the backward kernel; arguments as in :func:`count_plan`."""
    shared = _shared(tensors, coupled)
    if shared is not None:
        return shared
    if tensors.layout != PLANES:
        return count_plan(tensors, coupled)
    block_c = _classes(tensors, coupled)
    vector = 16 // tensors.input.element_size()  # one load of 16 bytes
    if tensors.unit > 1:
        vector = min(vector, tensors.unit)
    per_thread = min(vector, BACKWARD_ELEMENTS // block_c)
    return _plan(tensors, block_c, per_thread, min(tensors.unit, per_thread))


def _shared(tensors: Tensors, coupled: bool) -> Plan | None:
    """Return the tiles of a softmax whose classes are spread over threads, None of others."""
    padded = 1 << (tensors.classes - 1).bit_length()
    if not coupled or padded <= THREAD_CLASSES:
        return None
    if tensors.classes > MAX_TILE_CLASSES:
        return Plan(32, 32, 1, 4, 1, _chunks(tensors, 32, 1), 1, wide=True)
    block_v = 32 if padded <= 64 else 16
    chunks = _chunks(tensors, block_v, 1)
    return Plan(padded, block_v, 1, padded * block_v // 256, 1, chunks, 1, wide=False)


def _classes(tensors: Tensors, coupled: bool) -> int:
    """Return how many classes a thread holds."""
    padded = 1 << (tensors.classes - 1).bit_length()
    return padded if coupled else min(padded, COUNT_ELEMENTS)


def _plan(tensors: Tensors, block_c: int, per_thread: int, unit: int) -> Plan:
    class_blocks = -(-tensors.classes // block_c)
    block_v = 128 * per_thread
    chunks = _chunks(tensors, block_v, class_blocks)
    return Plan(block_c, block_v, per_thread, 4, class_blocks, chunks, unit, wide=False)


def _chunks(tensors: Tensors, block_v: int, class_blocks: int) -> int:
    tiles = -(-tensors.voxels // block_v)
    programs = MAX_PROGRAMS // (tensors.batch * class_blocks)
    return min(tiles, max(1, programs, -(-tensors.voxels // MAX_VOXELS)))


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
