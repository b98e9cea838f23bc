"""region_sums by Triton kernels: views of the tensors, plans, launches.

Sizes, strides, gamma, the value of ignore_index and the order of the terms are runtime arguments: a
new kernel is compiled only for another dtype, number of classes, set of terms, activation, kind of
target or weight, or alignment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops.region_sums import triton_backward, triton_forward, triton_plan, triton_wide
from segloss_fast.ops.region_sums.options import ACTIVATIONS, Options
from segloss_fast.ops.region_sums.reference import _can_hold
from segloss_fast.ops.region_sums.triton_plan import CHANNELS_LAST, PLANES, STRIDED, Plan, Problem
from segloss_fast.ops.region_sums.triton_terms import LOGS, REGION

UNITS = (8, 4, 2)  # divisors of all strides that kernels are made for, in elements


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel, with everything that decides how it is compiled.

    Attributes:
        kernel: The jitted function.
        grid: Number of programs.
        arguments: By name, at run time.
        constants: By name, at compile time.
        warps: Warps per program.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constants: dict[str, Any]
    warps: int

    @property
    def options(self) -> dict[str, Any]:
        """What the compiler is told."""
        return {"num_warps": self.warps, "num_stages": 1, "enable_fp_fusion": True}

    def __call__(self) -> None:
        """Enqueue the kernel on the current stream."""
        self.kernel[self.grid](**self.arguments, **self.constants, **self.options)


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
    call = _Call(input, target, voxel_weight, options)
    plan = triton_plan.forward_plan(call.problem)
    programs = call.problem.batch * plan.chunks
    size = programs * call.rows * call.problem.classes
    scratch = input.new_empty(size + 2 * programs, dtype=torch.float64)
    partials, flags = scratch[:size], scratch[size:]
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
    call: _Call, plan: Plan, rows: Tensor, invalid: Tensor, partials: Tensor, flags: Tensor
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
    call = _Call(input, target, voxel_weight, options, grad)
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


@dataclass(frozen=True)
class _View:
    """A tensor's strides: of the batch, of the classes, of three dimensions of voxels."""

    tensor: Tensor
    batch: int
    classes: int
    voxels: tuple[int, int, int]

    def is_linear(self, step: int, sizes: tuple[int, int, int]) -> bool:
        """Whether voxel v in row-major order lies at v * step."""
        expected = (sizes[1] * sizes[2] * step, sizes[2] * step, step)
        strides = zip(sizes, self.voxels, expected, strict=True)
        return all(size == 1 or stride == wanted for size, stride, wanted in strides)


def _view(tensor: Tensor, shape: torch.Size) -> _View:
    """View a tensor ``[B, C or 1, *S]`` or ``[B, *S]``."""
    strides = tensor.stride()
    if tensor.dim() == len(shape):
        classes = strides[1] if tensor.shape[1] == shape[1] else 0
        space = strides[2:]
    else:
        classes, space = 0, strides[1:]
    padded = (*[0] * (3 - len(space)), *space)
    return _View(tensor, strides[0], classes, (padded[0], padded[1], padded[2]))


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
        if target.dtype == torch.bool:
            target = target.view(torch.uint8)
        shape = input.shape
        self.options = options
        self.dense = target.dim() == input.dim()
        self.unlabelled = self.dense or shape[1] == 1
        self.weight = 0 if voxel_weight is None else 1
        if voxel_weight is not None and voxel_weight.shape[1] == shape[1] > 1:
            self.weight = 2
        ignore = options.ignore_index
        self.ignores = ignore is not None and not self.dense and _can_hold(target.dtype, ignore)
        self.space = (*[1] * (5 - len(shape)), *shape[2:])
        weight = input if voxel_weight is None else voxel_weight
        tensors = {"x": input, "t": target, "w": weight, "g": input if grad is None else grad}
        self.tensors = {name: _view(tensor, shape) for name, tensor in tensors.items()}
        self.rows = len(options.terms)
        self.acts = tuple(
            ACTIVATIONS.index(name) for name in (options.activation, options.ce_activation)
        )
        layout, unit = self._layout(shape)
        terms = triton_plan.term_set(options.terms)
        coupled = bool(
            (self.acts[0] == 0 and terms & REGION.value)
            or (self.acts[1] == 0 and terms & LOGS.value)
        )
        self.problem = Problem(
            shape[0],
            shape[1],
            math.prod(shape[2:]),
            input.element_size(),
            terms,
            coupled,
            layout,
            unit,
        )

    def _layout(self, shape: torch.Size) -> tuple[int, int]:
        """Return the layout that all tensors have in common, and the unit of their strides."""
        sizes = (self.space[0], self.space[1], self.space[2])
        views = self.tensors.values()
        if all(view.is_linear(1, sizes) for view in views):
            strides = [stride for view in views for stride in (view.batch, view.classes)]
            return PLANES, _unit([math.prod(sizes), *strides])
        classes = shape[1]
        whole = (
            {"x", "g"} | ({"t"} if self.dense else set()) | ({"w"} if self.weight == 2 else set())
        )
        if all(
            view.is_linear(classes, sizes) and view.classes == 1
            if name in whole or (name == "w" and self.weight == 0)
            else view.is_linear(1, sizes)
            for name, view in self.tensors.items()
        ):
            return CHANNELS_LAST, _unit([math.prod(sizes), *[view.batch for view in views]])
        return STRIDED, 1

    def view(self, name: str, plan: Plan) -> dict[str, Any]:
        """Return the arguments that describe one tensor."""
        view, unit = self.tensors[name], plan.unit
        planes = self.problem.layout == PLANES
        return {
            name: view.tensor,
            f"{name}_bs": view.batch // unit,
            f"{name}_cs": view.classes // unit if planes else view.classes,
            **{f"{name}_s{d}": stride for d, stride in enumerate(view.voxels)},
        }

    def views(self, plan: Plan) -> dict[str, Any]:
        """Return the arguments that describe input, target and weight."""
        return {**self.view("x", plan), **self.view("t", plan), **self.view("w", plan)}

    def sizes(self, plan: Plan) -> dict[str, int]:
        """Return the sizes."""
        return {
            "voxels": self.problem.voxels // plan.unit,
            "n1": self.space[1],
            "n2": self.space[2],
            "chunks": plan.chunks,
        }

    def numbers(self) -> dict[str, float]:
        """Return the options that are numbers."""
        ignore = self.options.ignore_index
        return {
            "ignore": ignore if self.ignores and ignore is not None else 0,
            "gamma": self.options.gamma,
        }

    def constants(self, plan: Plan) -> dict[str, Any]:
        """Return what the kernels specialise on."""
        blocks = {} if plan.wide else {"CLASS_BLOCKS": plan.class_blocks}
        return {
            **blocks,
            "C": self.problem.classes,
            "TERMS": self.problem.terms,
            "ACT": self.acts[0],
            "CE_ACT": self.acts[1],
            "SQUARE": self.options.gamma == 2,
            "DENSE": self.dense,
            "WEIGHT": self.weight,
            "IGNORE": self.ignores,
            "LAYOUT": self.problem.layout,
            "UNIT": plan.unit,
            "BLOCK_C": plan.block_c,
            "BLOCK_V": plan.block_v,
        }


def _unit(numbers: list[int]) -> int:
    """Return the largest unit that divides them all."""
    return next((unit for unit in UNITS if all(n % unit == 0 for n in numbers)), 1)
