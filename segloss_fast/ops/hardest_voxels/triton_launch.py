"""hardest_voxels by Triton kernels: five passes over the map, six launches, no synchronisation.

Bytes per voxel of C classes, with e bytes per element of the input and l per label: e C + l once;
of the map, which becomes the weights, 4 written with the cross-entropies, 4 read for each of the
other three digits of eight bits, 4 read and 4 written for the weights: 24. A dense target and voxel
weights are read once, too. Memory: the map (4 bytes per voxel), 8.3 KB and 16 bytes per item.

Sizes, strides, k, the first class and the value of ignore_index are runtime arguments: a new kernel
is compiled only for another dtype, number of classes, activation, kind of target or weight, or
alignment.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops._triton import tiling
from segloss_fast.ops._triton.launch import Launch, device_of
from segloss_fast.ops._triton.plan import Plan
from segloss_fast.ops._triton.views import Tensors
from segloss_fast.ops._voxels.maps import ACTIVATIONS
from segloss_fast.ops.hardest_voxels import triton_entropy, triton_kernels

SOFTMAX, PROBABILITIES = ACTIVATIONS.index("softmax"), ACTIVATIONS.index("probabilities")
PROGRAMS = 1024  # of a pass; each adds its counts to the same counters
COUNT_BLOCK, WEIGH_BLOCK, SUM_BLOCK = 4096, 1024, 128
UNIT = 4  # keys that a thread loads at once, where the number of voxels is a multiple of it
DIGITS, STAGES = triton_entropy.DIGITS.value, triton_kernels.STAGES.value


def forward(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    class_weight: Tensor | None,
    k: float,
    activation: int,
    first: int,
    ignore_index: int | None,
) -> tuple[Tensor, Tensor]:
    """Return the weights ``[B, 1, *S]``, float32, and their sums ``[B]``, float64.

    Args:
        input: ``[B, C, *S]``, float16, bfloat16 or float32.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``, or None.
        class_weight: ``[C]``, or None.
        k: How many, in percent of the voxels that count.
        activation: Index in ACTIVATIONS.
        first: Classes below it have no share.
        ignore_index: The label of voxels that do not count, or None.
    """
    batch = input.shape[0]
    weights = input.new_empty((batch, 1, *input.shape[2:]), dtype=torch.float32)
    if input.numel() == 0:
        return weights.zero_(), input.new_zeros(batch, dtype=torch.float64)
    sums = input.new_empty(batch, dtype=torch.float64)
    tensors = Tensors(input, target, ignore_index, {"w": _or(voxel_weight, input)})
    with device_of(input):
        # Allocated first: what is to be counted in must be zero.
        room = _Room(input)
        entropy_launch(tensors, voxel_weight, class_weight, activation, first, weights, room)()
        for launch in select_launches(weights, sums, k, room):
            launch()
    return weights, sums


class _Room:
    """Integers in the device's memory, zero at first.

    Attributes:
        counters: ``[4, 256]``, of the digits.
        states: ``[4, 2]``, what was found so far.
        numbers: ``[B, 2]``, of weights that are 1, and of ties.
    """

    def __init__(self, input: Tensor) -> None:
        sizes = (STAGES * DIGITS, STAGES * 2, input.shape[0] * 2)
        room = input.new_zeros(sum(sizes), dtype=torch.int64)
        self.counters, self.states, self.numbers = room.split(sizes)


def entropy_launch(
    tensors: Tensors,
    voxel_weight: Tensor | None,
    class_weight: Tensor | None,
    activation: int,
    first: int,
    weights: Tensor,
    room: _Room,
) -> Launch:
    """Return the launch that fills the map with keys and counts their first digit."""
    plan = _plan(tensors, activation == SOFTMAX)
    scaled = class_weight is not None
    weight = 0 if voxel_weight is None else 1
    if voxel_weight is not None and voxel_weight.shape[1] == tensors.classes > 1:
        weight = 2
    one_class = activation == PROBABILITIES and tensors.classes == 1
    categorical = activation == SOFTMAX or (activation == PROBABILITIES and not one_class)
    return Launch(
        triton_entropy.cross_entropies,
        (tensors.batch * plan.chunks,),
        {
            "keys": weights.view(torch.int32),
            "counters": room.counters,
            "class_weight": _or(class_weight, room.counters).contiguous(),
            **tensors.view("x", plan),
            **tensors.view("t", plan),
            **tensors.view("w", plan),
            **tensors.sizes(plan),
            "ignore": tensors.ignore,
            "first_class": min(first, tensors.classes),
        },
        {
            "kind": tensors.kind(plan, weight),
            "entropy": triton_entropy.Entropy(activation, categorical, scaled),
        },
        plan.warps,
    )


def select_launches(weights: Tensor, sums: Tensor, k: float, room: _Room) -> Iterator[Launch]:
    """Return the launches that turn the keys in the map into weights, and write their sums."""
    batch, voxels = weights.shape[0], math.prod(weights.shape[2:])
    size = batch * voxels
    unit = UNIT if voxels % UNIT == 0 else 1
    found: dict[str, Any] = {"counters": room.counters, "states": room.states, "k_bits": _bits(k)}
    for stage in range(1, STAGES):
        yield Launch(
            triton_kernels.count_digits,
            (min(PROGRAMS, -(-size // COUNT_BLOCK)),),
            {"keys": weights.view(torch.int32), **found, "stage": stage, "size": size // unit},
            {"UNIT": unit, "BLOCK": COUNT_BLOCK},
        )
    chunks = min(-(-voxels // WEIGH_BLOCK), max(1, PROGRAMS // batch))
    yield Launch(
        triton_kernels.weigh,
        (batch * chunks,),
        {
            **found,
            "weights": weights,
            "numbers": room.numbers,
            "voxels": voxels // unit,
            "chunks": chunks,
        },
        {"UNIT": unit, "BLOCK": WEIGH_BLOCK},
    )
    yield Launch(
        triton_kernels.sum_weights,
        (-(-batch // SUM_BLOCK),),
        {"sums": sums, "numbers": room.numbers, **found, "batch": batch},
        {"BLOCK": SUM_BLOCK},
    )


def _plan(tensors: Tensors, coupled: bool) -> Plan:
    """Return the tiles of one term, whose programs take all classes."""
    plan = tiling.forward_plan(tensors, 1, coupled)
    tiles = -(-tensors.voxels // plan.block_v)
    chunks = min(tiles, max(1, 2 * PROGRAMS // tensors.batch))
    return replace(plan, class_blocks=1, chunks=chunks, wide=False)


def _bits(k: float) -> int:
    """Return the bits of a float64 as an integer."""
    bits: int = struct.unpack("<q", struct.pack("<d", k))[0]
    return bits


def _or(tensor: Tensor | None, instead: Tensor) -> Tensor:
    """Return the tensor, or one that kernels take in its place and do not read."""
    return instead if tensor is None else tensor
