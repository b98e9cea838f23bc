"""Which kernels a call of confusion_sums runs, and with which tiles: fixed rules, no autotuner.

Bytes per voxel, with e bytes per element of the input and l per label: forward e C + l, backward
2 e C + l, a dense target or weights in addition; see triton_wide.py for C > 128. The partial sums
of the programs take 8 C (C + 1) bytes each, together at most 8 MB, or those of MIN_PROGRAMS, or of
one program per item.
"""

from __future__ import annotations

from segloss_fast.ops._triton.plan import Plan, rounded
from segloss_fast.ops._triton.views import Tensors

FEW_CLASSES = 8  # up to so many, a thread keeps all sums of its voxels: their square
MOST_CLASSES = 128  # up to so many, a tile holds all of them;
BLOCK_C = 64  # beyond, so many
BLOCK_TILES = 16  # tiles that are added in float32
PARTIALS = 1 << 20  # float64 values
MIN_PROGRAMS, MAX_PROGRAMS = 132, 1584


def forward_plan(tensors: Tensors) -> Plan:
    """Return the tiles of the forward kernel."""
    return _plan(tensors, programs_for(tensors.classes * (tensors.classes + 1)))


def programs_for(values: int) -> int:
    """Return how many programs there are at most whose sums are so many each."""
    return rounded(PARTIALS // values, MIN_PROGRAMS, MAX_PROGRAMS)


def target_classes(tensors: Tensors, plan: Plan) -> int:
    """Return how many classes of the target a program of the wide forward kernel sums for.

    Those of its tile; but half of 128 if dense, whose bfloat16 parts need registers, too.
    """
    return plan.block_c // 2 if tensors.dense and plan.block_c == MOST_CLASSES else plan.block_c


def backward_plan(tensors: Tensors) -> Plan:
    """Return the tiles of the backward kernel."""
    return _plan(tensors, 2 * MAX_PROGRAMS)


def _plan(tensors: Tensors, programs: int) -> Plan:
    padded = 1 << (tensors.classes - 1).bit_length()
    few = tensors.classes <= FEW_CLASSES
    per_thread = min(16 // tensors.input.element_size(), max(tensors.unit, 1))
    if tensors.unit == 1:  # no vectors, but as many voxels
        per_thread = 16 // tensors.input.element_size()
    if few:
        # Of eight classes there are 64 sums besides the voxels' input.
        per_thread = min(per_thread, 2 if padded == 8 else 32 // padded)
        block_v, warps = 128 * per_thread, 4
    else:
        many = tensors.classes > MOST_CLASSES
        padded = BLOCK_C if many else padded
        per_thread = min(per_thread, 4)
        block_v = 32
        # Loops over blocks of classes keep more addresses in registers.
        warps = 8 if many else {16: 1, 32: 2, 64: 4, 128: 8}[padded]
    tiles = -(-tensors.voxels // block_v)
    chunks = max(1, min(tiles, programs // tensors.batch))
    blocks = -(-tensors.classes // padded)
    unit = min(tensors.unit, per_thread)
    return Plan(padded, block_v, per_thread if few else 1, warps, blocks, chunks, unit, not few)
