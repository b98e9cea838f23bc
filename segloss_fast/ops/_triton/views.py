"""One call's tensors as the Triton kernels see them: strides, layout, what they specialise on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops._triton.kinds import Kind
from segloss_fast.ops._triton.plan import CHANNELS_LAST, PLANES, STRIDED, Plan
from segloss_fast.ops._voxels.labels import can_hold

UNITS = (8, 4, 2)  # divisors of all strides that kernels are made for, in elements


@dataclass(frozen=True)
class StridedView:
    """A tensor and its strides: of the batch, of the classes, of three dimensions of voxels."""

    tensor: Tensor
    batch: int
    classes: int
    voxels: tuple[int, int, int]

    def is_linear(self, step: int, sizes: tuple[int, int, int]) -> bool:
        """Whether voxel v in row-major order lies at v * step."""
        expected = (sizes[1] * sizes[2] * step, sizes[2] * step, step)
        strides = zip(sizes, self.voxels, expected, strict=True)
        return all(size == 1 or stride == wanted for size, stride, wanted in strides)


def without_bools(tensor: Tensor) -> Tensor:
    """Return truth values as bytes 0 and 1: a bool tensor over memory of others holds any byte."""
    if tensor.dtype != torch.bool:
        return tensor
    return tensor.view(torch.uint8).ne(0).view(torch.uint8)


def view_of(tensor: Tensor, shape: torch.Size) -> StridedView:
    """View a tensor ``[B, C or 1, *S]`` or ``[B, *S]`` of the shape ``[B, C, *S]``; bools as bytes.

    Missing dimensions come first, with stride 0.
    """
    strides = tensor.stride()
    if tensor.dim() == len(shape):
        classes = strides[1] if tensor.shape[1] == shape[1] else 0
        space = strides[2:]
    else:
        classes, space = 0, strides[1:]
    padded = (*[0] * (3 - len(space)), *space)
    tensor = tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor
    return StridedView(tensor, strides[0], classes, (padded[0], padded[1], padded[2]))


class Tensors:
    """Input, target and others of one call: their strides, and what they have in common.

    Attributes:
        input: ``[B, C, *S]``.
        batch: B.
        classes: C.
        voxels: Number of voxels of an item.
        space: S, padded to three dimensions.
        dense: Whether the target has classes.
        truth: Whether the target is of dtype bool.
        unlabelled: Whether nothing in it can be invalid.
        ignores: Whether a label, or a value of one class, can be ignored.
        ignore: The label to ignore, 0 if there is none.
        layout: PLANES, CHANNELS_LAST or STRIDED, of all tensors.
        unit: 8, 4, 2 or 1: divides the voxels and all strides that are passed in units.
    """

    def __init__(
        self,
        input: Tensor,
        target: Tensor,
        ignore_index: int | None,
        others: dict[str, Tensor] | None = None,
    ) -> None:
        shape = input.shape
        self.input = input
        self.batch, self.classes = shape[:2]
        self.voxels = math.prod(shape[2:])
        self.dense = target.dim() == input.dim()
        self.truth = target.dtype == torch.bool
        self.unlabelled = self.dense and shape[1] > 1
        self.space = (*[1] * (5 - len(shape)), *shape[2:])
        tensors = {"x": input, "t": target, **(others or {})}
        self._views = {name: view_of(tensor, shape) for name, tensor in tensors.items()}
        labels = self._views["t"].tensor
        held = ignore_index is not None and can_hold(labels.dtype, ignore_index)
        self.ignores = held and not self.unlabelled
        self.ignore = ignore_index if self.ignores and ignore_index is not None else 0
        self.layout, self.unit = self._find_layout()

    def _find_layout(self) -> tuple[int, int]:
        """Return the layout that all tensors have in common, and the unit of their strides."""
        sizes = (self.space[0], self.space[1], self.space[2])
        views = self._views.values()
        if all(view.is_linear(1, sizes) for view in views):
            strides = [stride for view in views for stride in (view.batch, view.classes)]
            return PLANES, _unit([self.voxels, *strides])
        if all(
            view.is_linear(self.classes, sizes) and view.classes == 1
            if self._has_classes(view.tensor)
            else view.is_linear(1, sizes)
            for view in views
        ):
            return CHANNELS_LAST, _unit([self.voxels, *[view.batch for view in views]])
        return STRIDED, 1

    def _has_classes(self, tensor: Tensor) -> bool:
        return tensor.dim() == self.input.dim() and tensor.shape[1] == self.classes

    def view(self, name: str, plan: Plan) -> dict[str, Any]:
        """Return the arguments that describe one tensor."""
        view, unit = self._views[name], plan.unit
        planes = self.layout == PLANES
        return {
            name: view.tensor,
            f"{name}_bs": view.batch // unit,
            f"{name}_cs": view.classes // unit if planes else view.classes,
            **{f"{name}_s{d}": stride for d, stride in enumerate(view.voxels)},
        }

    def sizes(self, plan: Plan) -> dict[str, int]:
        """Return the sizes."""
        return {
            "voxels": self.voxels // plan.unit,
            "n1": self.space[1],
            "n2": self.space[2],
            "chunks": plan.chunks,
        }

    def kind(self, plan: Plan, weight: int = 0) -> Kind:
        """Return what all kernels specialise on; ``weight`` is Kind.WEIGHT."""
        return Kind(
            C=self.classes,
            DENSE=self.dense,
            TRUTH=self.truth,
            WEIGHT=weight,
            IGNORE=self.ignores,
            LAYOUT=self.layout,
            UNIT=plan.unit,
            BLOCK_C=plan.block_c,
            BLOCK_V=plan.block_v,
            CLASS_BLOCKS=plan.class_blocks,
            FOLD=plan.fold,
        )


def _unit(numbers: list[int]) -> int:
    """Return the largest unit that divides them all."""
    return next((unit for unit in UNITS if all(n % unit == 0 for n in numbers)), 1)
