"""A formula of sums as one operator each way, for graphs that torch.compile makes for the CPU."""

from __future__ import annotations

import functools
from dataclasses import astuple

import torch
from torch import Tensor

from segloss_fast._check import BYTES, as_weight, check_input
from segloss_fast._native import _C
from segloss_fast.ops._formula import Program, evaluate, operators
from segloss_fast.ops._voxels.checks import check_target, check_voxel_weight
from segloss_fast.ops._voxels.labels import refuse_labels
from segloss_fast.ops._voxels.maps import is_within
from segloss_fast.ops.region_sums import contract, op
from segloss_fast.ops.region_sums.formula import Formula
from segloss_fast.ops.region_sums.options import Options


def write(formula: Formula, least: float | None = None) -> str:
    """Return a formula as text, and the least probability that an input is clamped to."""
    return operators.write([astuple(formula.options), formula.impl, least], formula.program)


@functools.lru_cache(maxsize=512)
def read(text: str) -> tuple[Formula, float | None]:
    """Return what was written."""
    (options, impl, least), program = operators.read(text)
    return Formula(Options(*options), impl, program), least


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
    formula, least = read(text)
    input = _clamped(input, least)
    program = formula.program
    given = operators.split(arguments, program)
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
    formula, least = read(text)
    clamped = _clamped(input, least)
    if clamped is not input:
        found = _backward(grad, grad_rows, clamped, target, voxel_weight, write(formula))
        return found.masked_fill_(clamped != input, 0)
    found = torch.empty_like(input)
    plain = (input, target) if voxel_weight is None else (input, target, voxel_weight)
    if formula.step.backward_from(grad_rows, grad, plain, found):
        return found
    target, weights = check(input, target, voxel_weight, formula.options.ignore_index)
    rows = grad_rows * grad
    return op.backward("native", rows, [input], [target], weights, formula.options)[0]


def _clamped(input: Tensor, least: float | None) -> Tensor:
    """Return the input, or another one if values lie outside [least, 1 - least]."""
    if least is None or is_within(input, least):
        return input
    return input.clamp(least, 1 - least)


def _program(text: str) -> Program:
    return read(text)[0].program


operator = operators.define_formula(op.kernels, "region_formula", (_forward, _backward), _program)
