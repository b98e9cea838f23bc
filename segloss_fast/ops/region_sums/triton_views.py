"""One call's tensors as the Triton kernels see them: strides, layout, what they specialise on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops.region_sums import triton_plan
from segloss_fast.ops.region_sums.options import ACTIVATIONS, Options
from segloss_fast.ops.region_sums.reference import can_hold
from segloss_fast.ops.region_sums.triton_plan import CHANNELS_LAST, PLANES, STRIDED, Plan, Problem
from segloss_fast.ops.region_sums.triton_terms import LOGS, REGION

UNITS = (8, 4, 2)  # divisors of all strides that kernels are made for, in elements


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


class Call:
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
        self.ignores = ignore is not None and not self.dense and can_hold(target.dtype, ignore)
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
