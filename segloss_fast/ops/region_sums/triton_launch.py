"""region_sums by Triton kernels: views of the tensors, plans, launches.

Sizes, strides, gamma, the value of ignore_index and the order of the terms are runtime arguments: a
new kernel is compiled only for another dtype, number of classes, set of terms, activation, kind of
target or weight, or alignment.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from segloss_fast._triton import Launch
from segloss_fast.ops.region_sums import triton_backward, triton_forward, triton_plan, triton_wide
from segloss_fast.ops.region_sums.options import Options
from segloss_fast.ops.region_sums.triton_plan import Plan
from segloss_fast.ops.region_sums.triton_terms import LOGS, REGION
from segloss_fast.ops.region_sums.triton_views import Call


def forward(
    input: Tensor, target: Tensor, voxel_weight: Tensor | None, options: Options
) -> tuple[Tensor, Tensor]:
    """Return the rows ``[K, B, C]`` and ``[2]``: the number of labels out of range, and the first.

    Args:
        input: ``[B, C, *S]``, float16, bfloat16 or float32.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``, or None.
        options: What to compute.
    """
    shape = (len(options.terms), *input.shape[:2])
    if input.numel() == 0:
        zeros = input.new_zeros(math.prod(shape) + 2, dtype=torch.float64)
        return zeros[:-2].view(shape), zeros[-2:]
    rows = input.new_empty(shape, dtype=torch.float64)
    invalid = input.new_empty(2, dtype=torch.float64)
    with _device(input):
        for launch in forward_launches(input, target, voxel_weight, options, rows, invalid):
            launch()
    return rows, invalid


def backward(
    grad_rows: Tensor,
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    options: Options,
) -> Tensor:
    """Return the gradient of the input, given that of the rows; its strides are empty_like's."""
    terms = triton_plan.term_set(options.terms)
    if not terms & (REGION.value | LOGS.value):
        return torch.zeros_like(input)
    grad = torch.empty_like(input)
    if input.numel() > 0:
        with _device(input):
            backward_launch(grad, grad_rows, input, target, voxel_weight, options)()
    return grad


def _device(tensor: Tensor) -> Any:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device_of(tensor)


def forward_launches(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    options: Options,
    rows: Tensor,
    invalid: Tensor,
) -> tuple[Launch, Launch]:
    """Return the launches that write rows and invalid."""
    call = Call(input, target, voxel_weight, options)
    plan = triton_plan.forward_plan(call.problem)
    programs = call.problem.batch * plan.chunks
    size = programs * call.rows * call.problem.classes
    scratch = input.new_empty(size + 2 * programs, dtype=torch.float64)
    # In this order both are aligned to 16 bytes, whatever the size.
    flags, partials = scratch[: 2 * programs], scratch[2 * programs :]
    constants = call.constants(plan)
    if not plan.wide:
        constants |= {"FOLD": plan.fold, "BLOCK_TILES": triton_plan.BLOCK_TILES}
    first = Launch(
        triton_wide.partial_sums if plan.wide else triton_forward.partial_sums,
        (programs * plan.class_blocks,),
        {
            "partials": partials,
            "flags": flags,
            **call.views(plan),
            **call.sizes(plan),
            **call.numbers(),
        },
        constants,
        plan.warps,
    )
    return first, _total(call, plan, rows, invalid, partials, flags)


def _total(
    call: Call, plan: Plan, rows: Tensor, invalid: Tensor, partials: Tensor, flags: Tensor
) -> Launch:
    columns = min(64, max(4, 1 << (call.rows * call.problem.classes - 1).bit_length()))
    blocks = -(-call.rows * call.problem.classes // columns)
    order = triton_plan.row_order(call.options.terms)
    constants = {"K": call.rows, "C": call.problem.classes, "DENSE": call.unlabelled}
    constants |= {"LAYOUT": call.problem.layout, "UNIT": plan.unit}
    constants |= {"ROWS": 1024 // columns, "COLUMNS": columns}
    return Launch(
        triton_forward.total_sums,
        (call.problem.batch, blocks),
        {
            "rows": rows,
            "invalid": invalid,
            "partials": partials,
            "flags": flags,
            **call.view("t", plan),
            **call.sizes(plan),
            "batch": call.problem.batch,
            "order": order,
        },
        constants,
        4,
    )


def backward_launch(
    grad: Tensor,
    grad_rows: Tensor,
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    options: Options,
) -> Launch:
    """Return the launch that writes grad."""
    call = Call(input, target, voxel_weight, options, grad)
    plan = triton_plan.backward_plan(call.problem)
    strides = dict(zip(("r_ks", "r_bs", "r_cs"), grad_rows.stride(), strict=True))
    return Launch(
        triton_wide.input_gradient if plan.wide else triton_backward.input_gradient,
        (call.problem.batch * plan.chunks * plan.class_blocks,),
        {
            **call.view("g", plan),
            "r": grad_rows,
            **strides,
            **call.views(plan),
            **call.sizes(plan),
            **call.numbers(),
            "order": triton_plan.row_order(options.terms),
        },
        call.constants(plan),
        plan.warps,
    )
