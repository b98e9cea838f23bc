"""confusion_sums by Triton kernels: views of the tensors, plans, launches.

Sizes, strides and the value of ignore_index are runtime arguments: a new kernel is compiled only
for another dtype, number of classes, activation, kind of target or weight, or alignment.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops._triton.launch import Launch, device_of, total
from segloss_fast.ops._triton.plan import Plan
from segloss_fast.ops._triton.views import Tensors
from segloss_fast.ops.confusion_sums import triton_kernels, triton_plan, triton_wide

BLOCK_L = 32  # classes of a dense target that the backward kernel multiplies with at a time


def forward(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    activation: int,
    ignore_index: int | None,
) -> tuple[Tensor, Tensor]:
    """Return the sums ``[B, C, C + 1]`` and ``[2]``: how many labels are out of range, the first.

    Args:
        input: ``[B, C, *S]``, float16, bfloat16 or float32.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``, or None.
        activation: Its index in ACTIVATIONS.
        ignore_index: The label of ignored voxels, or None.
    """
    batch, classes = input.shape[:2]
    shape = (batch, classes, classes + 1)
    if input.numel() == 0:
        zeros = input.new_zeros(batch * classes * (classes + 1) + 2, dtype=torch.float64)
        return zeros[:-2].view(shape), zeros[-2:]
    sums = input.new_empty(shape, dtype=torch.float64)
    invalid = input.new_empty(2, dtype=torch.float64)
    call = (input, target, voxel_weight, activation, ignore_index)
    with device_of(input):
        for launch in forward_launches(sums, invalid, *call):
            launch()
    return sums, invalid


def backward(
    grad_sums: Tensor,
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    activation: int,
    ignore_index: int | None,
) -> Tensor:
    """Return the gradient of the input, given that of the sums; its strides are empty_like's."""
    grad = torch.empty_like(input)
    if input.numel() > 0:
        batch, classes = input.shape[:2]
        table = input.new_empty((batch, classes, classes), dtype=torch.float32)
        table.copy_(grad_sums[..., :-1])
        call = (input, target, voxel_weight, activation, ignore_index)
        with device_of(input):
            backward_launch(grad, table, *call)()
    return grad


class _Call:
    """One call's tensors as views, and what the kernels specialise on."""

    def __init__(
        self,
        grad: Tensor | None,
        input: Tensor,
        target: Tensor,
        voxel_weight: Tensor | None,
        activation: int,
        ignore_index: int | None,
    ) -> None:
        self.weight = 0
        if voxel_weight is not None:
            self.weight = 1 if voxel_weight.shape[1] == 1 else 2
        # Kernels take all of them; what is missing has the input's strides and is not read.
        others = {
            "w": input if voxel_weight is None else voxel_weight,
            "g": input if grad is None else grad,
        }
        self.tensors = Tensors(input, target, ignore_index, others)
        self.activation = activation

    def arguments(self, plan: Plan) -> dict[str, Any]:
        """Return the arguments that describe input, target, weight and sizes."""
        views = [self.tensors.view(name, plan) for name in ("x", "t", "w")]
        sizes = self.tensors.sizes(plan)
        return {**views[0], **views[1], **views[2], **sizes, "ignore": self.tensors.ignore}

    def constants(self, plan: Plan) -> dict[str, Any]:
        """Return what the kernels specialise on."""
        return {"kind": self.tensors.kind(plan, self.weight), "ACT": self.activation}


def forward_launches(sums: Tensor, invalid: Tensor, input: Tensor, *rest: Any) -> list[Launch]:
    """Return the launches that write sums and invalid; the rest is that of forward()."""
    call = _Call(None, input, *rest)
    tensors, plan = call.tensors, triton_plan.forward_plan(call.tensors)
    programs, width = tensors.batch * plan.chunks, sums.shape[1] * sums.shape[2]
    room = input.new_empty(programs * (width + 2), dtype=torch.float64)
    # In this order both are aligned to 16 bytes.
    partials, flags = room[2 * programs :], room[: 2 * programs]
    constants = {**call.constants(plan), "BLOCK_TILES": triton_plan.BLOCK_TILES}
    blocks = 1
    if plan.wide:
        constants["BLOCK_L"] = triton_plan.target_classes(tensors, plan)
        blocks = plan.class_blocks * -(-tensors.classes // constants["BLOCK_L"])
    first = Launch(
        triton_wide.partial_sums if plan.wide else triton_kernels.partial_sums,
        (programs * blocks,),
        {"partials": partials, "flags": flags, **call.arguments(plan)},
        constants,
        plan.warps,
    )
    most = triton_plan.programs_for(width)
    rows = sums.view(1, tensors.batch, width)
    return [first, total(tensors, plan, (0,), rows, invalid, partials, flags, most)]


def backward_launch(grad: Tensor, table: Tensor, input: Tensor, *rest: Any) -> Launch:
    """Return the launch that writes grad; table is the gradient of the sums ``[B, C, C]``."""
    call = _Call(grad, input, *rest)
    tensors, plan = call.tensors, triton_plan.backward_plan(call.tensors)
    return Launch(
        triton_wide.input_gradient if plan.wide else triton_kernels.input_gradient,
        (tensors.batch * plan.chunks,),
        {**tensors.view("g", plan), "table": table, **call.arguments(plan)},
        {**call.constants(plan), **({"BLOCK_L": BLOCK_L} if plan.wide else {})},
        plan.warps,
    )
