"""region_sums by Triton kernels: views of the tensors, plans, launches.

Sizes, strides, gamma, the value of ignore_index and the order of the terms are runtime arguments: a
new kernel is compiled only for another dtype, number of classes, set of terms, activation, kind of
target or weight, or alignment.

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
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops._triton import tiling
from segloss_fast.ops._triton.launch import Launch, device_of, scratch, total
from segloss_fast.ops._triton.plan import Plan
from segloss_fast.ops._triton.sums import pack_order
from segloss_fast.ops._triton.views import Tensors
from segloss_fast.ops._voxels.maps import ACTIVATIONS
from segloss_fast.ops.region_sums import (
    triton_backward,
    triton_forward,
    triton_labels,
    triton_tiles,
    triton_wide,
)
from segloss_fast.ops.region_sums.options import Options
from segloss_fast.ops.region_sums.triton_terms import LOGS, REGION, Formula, bits, row_order

# Of a thread of the kernel of class indices, of up to four classes and terms, and of more: then 24
# warps run at once on a multiprocessor, or 16, and the programs of a launch fill it evenly.
FEW_REGISTERS, REGISTERS = 80, 128


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
    if not bits(*options.terms) & (REGION.value | LOGS.value):
        return torch.zeros_like(input)
    grad = torch.empty_like(input)
    if input.numel() > 0:
        with device_of(input):
            backward_launch(grad, grad_rows, input, target, voxel_weight, options)()
    return grad


class _Call:
    """One call's tensors as views, and what the kernels specialise on."""

    def __init__(
        self,
        input: Tensor,
        target: Tensor,
        voxel_weight: Tensor | None,
        options: Options,
        grad: Tensor | None = None,
    ) -> None:
        self.options = options
        self.weight = 0 if voxel_weight is None else 1
        if voxel_weight is not None and voxel_weight.shape[1] == input.shape[1] > 1:
            self.weight = 2
        # Kernels take all of them; what is missing has the input's strides and is not read.
        others = {
            "w": input if voxel_weight is None else voxel_weight,
            "g": input if grad is None else grad,
        }
        self.tensors = Tensors(input, target, options.ignore_index, others)
        self.acts = (
            ACTIVATIONS.index(options.activation),
            ACTIVATIONS.index(options.ce_activation),
        )
        self.terms = bits(*options.terms)
        self.coupled = bool(
            (self.acts[0] == 0 and self.terms & REGION.value)
            or (self.acts[1] == 0 and self.terms & LOGS.value)
        )

    def arguments(self, plan: Plan) -> dict[str, Any]:
        """Return the arguments that describe input, target, weight, sizes and numbers."""
        views = [self.tensors.view(name, plan) for name in ("x", "t", "w")]
        return {
            **views[0],
            **views[1],
            **views[2],
            **self.tensors.sizes(plan),
            "ignore": self.tensors.ignore,
            "gamma": self.options.gamma,
        }

    def constants(self, plan: Plan) -> dict[str, Any]:
        """Return what the kernels specialise on."""
        return {"kind": self.tensors.kind(plan, self.weight), "formula": self.formula}

    @property
    def formula(self) -> Formula:
        """The terms that the kernels are compiled for."""
        square, hard = self.options.gamma == 2, not self.tensors.dense
        return Formula(self.terms, *self.acts, square, hard)


def forward_launches(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    options: Options,
    rows: Tensor,
    invalid: Tensor,
) -> tuple[Launch, Launch]:
    """Return the launches that write rows and invalid."""
    call = _Call(input, target, voxel_weight, options)
    labels = triton_labels.serves(input.shape[1], call.formula, call.weight)
    # Logarithms of each voxel take the registers of larger tiles.
    larger = labels and not call.terms & triton_tiles.OF_VOXEL.value
    plan = tiling.forward_plan(call.tensors, len(options.terms), call.coupled, larger)
    partials, flags = scratch(call.tensors, plan, len(options.terms))
    constants = call.constants(plan)
    kernel, registers = triton_wide.partial_sums, None
    if not plan.wide and labels:
        kernel = triton_labels.partial_sums
        few = plan.block_c <= 4 and len(options.terms) <= 4
        registers = FEW_REGISTERS if few else REGISTERS
        tiles = tiling.tiles_of_labels(plan, input.shape[1])
        constants["LOG_TILES"], constants["BLOCK_TILES"] = tiles
    elif not plan.wide:
        kernel = triton_forward.partial_sums
        constants["BLOCK_TILES"] = tiling.BLOCK_TILES
    first = Launch(
        kernel,
        (call.tensors.batch * plan.chunks * plan.class_blocks,),
        {"partials": partials, "flags": flags, **call.arguments(plan)},
        constants,
        plan.warps,
        registers=registers,
    )
    order, most = row_order(options.terms), tiling.programs_for(rows.shape[0] * rows.shape[2])
    return first, total(call.tensors, plan, order, rows, invalid, partials, flags, most)


def backward_launch(
    grad: Tensor,
    grad_rows: Tensor,
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    options: Options,
) -> Launch:
    """Return the launch that writes grad."""
    call = _Call(input, target, voxel_weight, options, grad)
    plan = tiling.backward_plan(call.tensors, len(options.terms), call.coupled)
    strides = dict(zip(("r_ks", "r_bs", "r_cs"), grad_rows.stride(), strict=True))
    order_low, order_high = pack_order(row_order(options.terms))
    return Launch(
        triton_wide.input_gradient if plan.wide else triton_backward.input_gradient,
        (call.tensors.batch * plan.chunks * plan.class_blocks,),
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
