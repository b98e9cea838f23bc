"""A formula of confusion sums as one operator each way, for graphs of torch.compile on the CPU."""

from __future__ import annotations

import functools

from torch import Tensor

from segloss_fast._check import check_input
from segloss_fast.ops._formula import Program, evaluate, operators
from segloss_fast.ops._voxels.checks import check_target
from segloss_fast.ops.confusion_sums import op

Options = tuple[str, int | None]  # activation and ignore_index


def write(options: Options, program: Program) -> str:
    """Return a formula as text."""
    return operators.write(options, program)


@functools.lru_cache(maxsize=512)
def read(text: str) -> tuple[Options, Program]:
    """Return the formula that was written."""
    return operators.read(text)


def check(input: Tensor, target: Tensor, ignore_index: int | None) -> Tensor:
    """Return the target as kernels take it; raise as confusion_sums."""
    check_input(input)
    if input.shape[1] < 2:
        raise ValueError(
            "classes are confused with each other: input must have at least two, "
            f"got shape {list(input.shape)}"
        )
    return check_target(input, target, ignore_index)


def _forward(
    input: Tensor, target: Tensor, voxel_weight: Tensor | None, arguments: Tensor | None, text: str
) -> tuple[Tensor, Tensor]:
    """Return the value, and its gradient in the sums."""
    options, program = read(text)
    target = _arranged(input, target, options)
    sums = op.forward(input, target, voxel_weight, *options, "native")
    given = operators.split(arguments, program)
    return evaluate(program, sums, given, gradient=True)  # type: ignore[return-value]


def _backward(
    grad: Tensor,
    grad_sums: Tensor,
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    text: str,
) -> Tensor:
    options, _ = read(text)
    target = _arranged(input, target, options)
    return op.backward(grad_sums, input, target, voxel_weight, *options, "native", grad)


def _arranged(input: Tensor, target: Tensor, options: Options) -> Tensor:
    """Return the target as kernels take it, who look at the shapes again."""
    return target if target.dim() < input.dim() else check(input, target, options[1])


def _program(text: str) -> Program:
    return read(text)[1]


operator = operators.define_formula(
    op.kernels, "confusion_formula", (_forward, _backward), _program
)
