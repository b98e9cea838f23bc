"""A formula of sums as one operator each way, for graphs that torch.compile makes for the CPU.

In such a graph an operator of ours costs some 40 us, and the formula as torch's operations as much
again, of which the numbers themselves take none: it has eight. So the operator computes both. It
is told the formula as text, by which a graph that was kept in a file means what it meant before.
"""

from __future__ import annotations

import functools
import json
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor

from segloss_fast._check import BYTES, as_weight, check_input
from segloss_fast._native import _C
from segloss_fast.ops._formula import Program, evaluate
from segloss_fast.ops._operator import define, differentiate
from segloss_fast.ops._voxels.checks import check_target, check_voxel_weight
from segloss_fast.ops._voxels.labels import refuse_labels
from segloss_fast.ops.region_sums import contract, op
from segloss_fast.ops.region_sums.formula import Formula
from segloss_fast.ops.region_sums.options import Options


def write(formula: Formula) -> str:
    """Return a formula as text."""
    return json.dumps([astuple(formula.options), formula.impl, astuple(formula.program)])


@functools.lru_cache(maxsize=512)
def read(text: str) -> Formula:
    """Return the formula that was written."""
    options, impl, program = _tuples(json.loads(text))
    return Formula(Options(*options), impl, Program(*program))


def _tuples(value: Any) -> Any:  # noqa: ANN401
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def check(
    input: Tensor, target: Tensor, voxel_weight: Tensor | None, ignore_index: int | None
) -> tuple[Tensor, list[Tensor]]:
    """Return the target and the weights as kernels take them; raise as region_sums."""
    check_input(input)
    target = check_target(input, target, ignore_index)
    if voxel_weight is None:
        return target, []
    voxel_weight = as_weight(voxel_weight, keep=BYTES)
    check_voxel_weight(input, voxel_weight, contract.WEIGHTS)
    return target, [contract.readable(voxel_weight, "native")]


def _forward(
    input: Tensor, target: Tensor, voxel_weight: Tensor | None, arguments: Tensor | None, text: str
) -> tuple[Tensor, Tensor]:
    """Return the value, and its gradient in the rows."""
    formula = read(text)
    program = formula.program
    given = () if arguments is None else arguments.split(list(program.arguments))
    plain = (input, target) if voxel_weight is None else (input, target, voxel_weight)
    assert _C is not None
    found = _C.read_plain(plain)
    if found is None:
        target, weights = check(input, target, voxel_weight, formula.options.ignore_index)
        rows = op.forward("native", [input], [target], weights, formula.options)
        return evaluate(program, rows, given, (1.0,), gradient=True)  # type: ignore[return-value]
    grad_rows = torch.empty(program.rows, dtype=torch.float64, device="cpu")
    value, count, first = formula.step.forward_to(found, given, grad_rows)
    dtype = torch.float32 if program.single else torch.float64
    loss = torch.scalar_tensor(value, dtype=dtype, device="cpu")
    if count:
        dense = target.is_floating_point() and input.shape[1] == 1
        refuse_labels(count, first, input.shape[1], dense=dense)
    return loss, grad_rows


def _backward(
    grad: Tensor,
    grad_rows: Tensor,
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    text: str,
) -> Tensor:
    formula = read(text)
    found = torch.empty_like(input)
    plain = (input, target) if voxel_weight is None else (input, target, voxel_weight)
    if formula.step.backward_from(grad_rows, grad, plain, found):
        return found
    target, weights = check(input, target, voxel_weight, formula.options.ignore_index)
    rows = grad_rows * grad
    return op.backward("native", rows, [input], [target], weights, formula.options)[0]


def _forward_fake(
    input: Tensor, target: Tensor, voxel_weight: Tensor | None, arguments: Tensor | None, text: str
) -> tuple[Tensor, Tensor]:
    program = read(text).program
    dtype = torch.float32 if program.single else torch.float64
    rows = input.new_empty(program.rows, dtype=torch.float64)
    return input.new_empty((), dtype=dtype), rows


def _backward_fake(grad: Tensor, grad_rows: Tensor, input: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
    return torch.empty_like(input)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:  # noqa: ANN401
    input, target, voxel_weight, _, ctx.text = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], input, target, voxel_weight)


def _derivative(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    operator = torch.ops.segloss_fast.region_formula_backward
    return operator(grad, *ctx.saved_tensors, ctx.text), None, None, None, None


_CALL = "Tensor input, Tensor target, Tensor? voxel_weight"
define(
    "region_formula",
    f"({_CALL}, Tensor? arguments, str formula) -> (Tensor, Tensor)",
    _forward,
    _forward_fake,
)
define(
    "region_formula_backward",
    f"(Tensor grad, Tensor grad_rows, {_CALL}, str formula) -> Tensor",
    _backward,
    _backward_fake,
)
differentiate(op.kernels, "region_formula", _save, _derivative)
operator = torch.ops.segloss_fast.region_formula.default
