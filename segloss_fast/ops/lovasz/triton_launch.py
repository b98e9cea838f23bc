"""lovasz's histogram by Triton kernels: launches, with the arguments of the native operators.

Sizes, strides and the value of ignore_index are runtime arguments: a new kernel is compiled only
for another dtype, number of classes or bins, activation, kind of target, or alignment.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops._triton.launch import Launch, device_of, scratch, total
from segloss_fast.ops._triton.plan import Plan
from segloss_fast.ops._triton.views import Tensors
from segloss_fast.ops.lovasz import triton_backward, triton_count, triton_plan
from segloss_fast.ops.lovasz.bins import number
from segloss_fast.ops.lovasz.triton_errors import Bins

SOFTMAX = 0
BLOCK = 1024
ORDER = (0, 1)  # of the rows: as the kernels keep them


def count(
    input: Tensor,
    target: Tensor,
    activation: int,
    octaves: int,
    bits: int,
    per_image: bool,
    ignore_index: int | None,
    cross_entropy: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the counts ``[2, I, C, 2, K]``, the rows ``[2, I, C]``, and the invalid labels.

    Args:
        input: ``[B, C, *S]``, float16, bfloat16 or float32.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        activation: Index in options.ACTIVATIONS.
        octaves: E, of the bins.
        bits: b, of the bins.
        per_image: Whether each item has counts of its own.
        ignore_index: The label of voxels that do not count, or None.
        cross_entropy: Whether to sum it.

    Returns:
        counts: int64, the number of voxels and the sum of their offsets, by bin.
        rows: float64, the number of flagged errors and the cross-entropy (0 if not asked for); all
            NaN if a label is out of range.
        invalid: float64 ``[2]``, the number of labels out of range, and the first.
    """
    batch, classes = input.shape[:2]
    images = batch if per_image else 1
    shape = (2, images, classes, 2, number(octaves, bits))
    if input.numel() == 0:
        rows = input.new_zeros((2, images, classes), dtype=torch.float64)
        return rows.new_zeros(shape, dtype=torch.int64), rows, rows.new_zeros(2)
    counts = input.new_empty(shape, dtype=torch.int64)
    rows = input.new_empty((2, batch, classes), dtype=torch.float64)
    invalid = input.new_empty(2, dtype=torch.float64)
    with device_of(input):
        for launch in count_launches(
            input, target, (activation, octaves, bits, cross_entropy), ignore_index,
            (counts, rows, invalid),
        ):  # fmt: skip
            launch()
    return counts, rows if per_image else rows.sum(1, keepdim=True), invalid


def backward(
    table: Tensor,
    grad_loss: Tensor,
    grad_ce: Tensor | None,
    input: Tensor,
    target: Tensor,
    activation: int,
    octaves: int,
    bits: int,
    ignore_index: int | None,
) -> Tensor:
    """Return the gradient of the input; its strides are empty_like's.

    Args:
        table: Of g, ``[I, C, 2, K]``.
        grad_loss: Gradient of the loss ``[I, C]``.
        grad_ce: Gradient of the cross-entropy sums ``[I, C]``, or None.
        input: As in :func:`count`.
        target: As in :func:`count`.
        activation: As in :func:`count`.
        octaves: As in :func:`count`.
        bits: As in :func:`count`.
        ignore_index: As in :func:`count`.
    """
    grad = torch.empty_like(input)
    if input.numel() > 0:
        bins, incoming = (activation, octaves, bits), (table, grad_loss, grad_ce)
        with device_of(input):
            backward_launch(grad, incoming, input, target, bins, ignore_index)()
    return grad


def count_launches(
    input: Tensor,
    target: Tensor,
    what: tuple[int, int, int, bool],
    ignore_index: int | None,
    out: tuple[Tensor, Tensor, Tensor],
) -> Iterator[Launch]:
    """Return the launches that write counts, rows ``[2, B, C]`` and invalid.

    Args:
        input: As in :func:`count`.
        target: As in :func:`count`.
        what: Activation, octaves, bits, whether to sum the cross-entropy.
        ignore_index: As in :func:`count`.
        out: The three tensors.
    """
    counts, rows, invalid = out
    tensors = Tensors(input, target, ignore_index)
    plan = triton_plan.count_plan(tensors, what[0] == SOFTMAX)
    size = counts[0].numel()
    replicas = triton_plan.replicas(tensors, plan, size)
    counters = counts.new_zeros(replicas * size)
    partials, flags = scratch(tensors, plan, 2)
    constants = _constants(tensors, plan, what[:3], what[3])
    if not plan.wide:
        constants["BLOCK_TILES"] = triton_plan.BLOCK_TILES
    images = counts.shape[1]
    yield Launch(
        triton_count.count_errors_wide if plan.wide else triton_count.count_errors,
        (tensors.batch * plan.chunks * plan.class_blocks,),
        {
            "counters": counters,
            "partials": partials,
            "flags": flags,
            **_arguments(tensors, plan, images),
            "images": images,
            "replicas": replicas,
        },
        constants,
        plan.warps,
        fusion=False,
    )
    yield Launch(
        triton_count.add_replicas,
        (-(-size // BLOCK),),
        {"counts": counts, "counters": counters, "size": size, "replicas": replicas},
        {"BLOCK": BLOCK},
        4,
    )
    most = triton_plan.MAX_PROGRAMS
    yield total(tensors, plan, ORDER, rows, invalid, partials, flags, most)


def backward_launch(
    grad: Tensor,
    incoming: tuple[Tensor, Tensor, Tensor | None],
    input: Tensor,
    target: Tensor,
    bins: tuple[int, int, int],
    ignore_index: int | None,
) -> Launch:
    """Return the launch that writes grad.

    Args:
        grad: Of the input, written.
        incoming: Table, grad_loss and grad_ce, as in :func:`backward`.
        input: As in :func:`count`.
        target: As in :func:`count`.
        bins: Activation, octaves and bits.
        ignore_index: As in :func:`count`.
    """
    table, grad_loss, grad_ce = incoming
    tensors = Tensors(input, target, ignore_index, {"g": grad})
    plan = triton_plan.backward_plan(tensors, bins[0] == SOFTMAX)
    grad_loss = grad_loss.contiguous()
    return Launch(
        triton_backward.input_gradient_wide if plan.wide else triton_backward.input_gradient,
        (tensors.batch * plan.chunks * plan.class_blocks,),
        {
            **tensors.view("g", plan),
            "table": table.contiguous(),
            "grad_loss": grad_loss,
            "grad_ce": grad_loss if grad_ce is None else grad_ce.contiguous(),
            **_arguments(tensors, plan, table.shape[0]),
        },
        _constants(tensors, plan, bins, grad_ce is not None),
        plan.warps,
        fusion=False,
    )


def _arguments(tensors: Tensors, plan: Plan, images: int) -> dict[str, Any]:
    return {
        **tensors.view("x", plan),
        **tensors.view("t", plan),
        **tensors.sizes(plan),
        "ignore": tensors.ignore,
        "image_step": int(images > 1),
    }


def _constants(
    tensors: Tensors, plan: Plan, bins: tuple[int, int, int], cross_entropy: bool
) -> dict[str, Any]:
    return {"kind": tensors.kind(plan), "bins": Bins(*bins, cross_entropy)}
