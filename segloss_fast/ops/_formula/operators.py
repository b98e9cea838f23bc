"""A primitive's sums and a formula of them as one operator each way, for graphs of torch.compile.

In such a graph an operator of ours costs some 40 us, and the formula as torch's operations as much
again, of which the numbers themselves take none: it has eight. So the operator computes both. It
is told the formula as text, by which a graph that was kept in a file means what it meant before.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from segloss_fast.ops._formula.program import Program
from segloss_fast.ops._operator import Kernels, define, differentiate, like_input

_CALL = "Tensor input, Tensor target, Tensor? voxel_weight"


def write(options: Any, program: Program) -> str:  # noqa: ANN401
    """Return the options of the sums, which JSON holds, and their formula as text."""
    return json.dumps([options, astuple(program)])


def read(text: str) -> tuple[Any, Program]:
    """Return the options and the formula that were written."""
    options, program = _tuples(json.loads(text))
    return options, Program(*program)


def _tuples(value: Any) -> Any:  # noqa: ANN401
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def split(arguments: Tensor | None, program: Program) -> tuple[Tensor, ...]:
    """Return the arguments of a program, which stand one after another."""
    if arguments is None or len(program.arguments) == 1:
        return () if arguments is None else (arguments,)
    found: tuple[Tensor, ...] = arguments.split(list(program.arguments))
    return found


def define_formula(
    kernels: Kernels,
    name: str,
    steps: tuple[Callable[..., Any], Callable[..., Any]],
    program_of: Callable[[str], Program],
) -> OpOverload[..., Any]:
    """Define the operator of a formula of sums, and NAME_backward; return the first.

    It takes input, target, perhaps a voxel weight, perhaps the arguments of the program one after
    another, and the text; it returns the value, and its gradient in the sums, which backward takes
    after the value's own.

    Args:
        kernels: Those of the primitive.
        name: Of the operator.
        steps: What computes forward and backward.
        program_of: Reads a text.
    """

    def fake(input: Tensor, target: Tensor, weight: Any, arguments: Any, text: str) -> Any:  # noqa: ANN401
        program = program_of(text)
        dtype = torch.float32 if program.single else torch.float64
        rows = input.new_empty(program.rows, dtype=torch.float64)
        return input.new_empty((), dtype=dtype), rows

    def backward_fake(grad: Tensor, grad_rows: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
        return like_input(grad, *rest)

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401
        input, target, voxel_weight, _, ctx.text = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1], input, target, voxel_weight)

    def derivative(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        return backward(grad, *ctx.saved_tensors, ctx.text), None, None, None, None

    signature = f"({_CALL}, Tensor? arguments, str formula) -> (Tensor, Tensor)"
    forward = define(name, signature, steps[0], fake)
    signature = f"(Tensor grad, Tensor grad_rows, {_CALL}, str formula) -> Tensor"
    backward = define(f"{name}_backward", signature, steps[1], backward_fake)
    differentiate(kernels, name, save, derivative)
    found: OpOverload[..., Any] = forward.default  # type: ignore[attr-defined]
    return found
