"""region_sums by Triton kernels: views of the tensors, plans, launches.

Sizes, strides, gamma, the value of ignore_index and the order of the terms are runtime arguments: a
new kernel is compiled only for another dtype, number of classes, set of terms, activation, kind of
target or weight, or alignment.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segloss_fast.ops._triton.launch import Launch, device_of, scratch, total
from segloss_fast.ops._triton.sums import pack_order
from segloss_fast.ops.region_sums import triton_backward, triton_forward, triton_plan, triton_wide
from segloss_fast.ops.region_sums.options import Options
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
    with device_of(input):
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
        with device_of(input):
            backward_launch(grad, grad_rows, input, target, voxel_weight, options)()
    return grad


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
    partials, flags = scratch(call.tensors, plan, len(options.terms))
    constants = call.constants(plan)
    if not plan.wide:
        constants |= {"FOLD": plan.fold, "BLOCK_TILES": triton_plan.BLOCK_TILES}
    first = Launch(
        triton_wide.partial_sums if plan.wide else triton_forward.partial_sums,
        (call.problem.batch * plan.chunks * plan.class_blocks,),
        {"partials": partials, "flags": flags, **call.arguments(plan)},
        constants,
        plan.warps,
    )
    order = triton_plan.row_order(options.terms)
    return first, total(call.tensors, plan, order, rows, invalid, partials, flags)


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
    order_low, order_high = pack_order(triton_plan.row_order(options.terms))
    return Launch(
        triton_wide.input_gradient if plan.wide else triton_backward.input_gradient,
        (call.problem.batch * plan.chunks * plan.class_blocks,),
        {
            **call.tensors.view("g", plan),
            "r": grad_rows,
            **strides,
            **call.arguments(plan),
            "order_low": order_low,
            "order_high": order_high,
        },
        call.constants(plan),
        plan.warps,
    )
