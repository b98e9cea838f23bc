"""Compiles the Triton kernel of programs for GPUs that need not be there."""

from __future__ import annotations

import pytest
import torch

from segloss_fast.ops._formula import triton_launch
from segloss_fast.ops._triton.launch import Launch
from tests.ops.formula_cases import FORMULAS, WEIGHTS, traced
from tests.ops.triton.compiler import compile_launch, specialization

pytestmark = pytest.mark.compiled


def launch_of(name: str, levels: tuple[float, ...] = (1.0,), *, gradient: bool = True) -> Launch:
    program = traced(FORMULAS[name])
    count, items, classes = program.rows
    rows = torch.zeros(count, items * len(levels), classes, dtype=torch.float64)
    loss = torch.zeros((), dtype=torch.float32)
    grad = torch.zeros_like(rows) if gradient else None
    return triton_launch.prepare(program, rows, [WEIGHTS], levels, loss, grad)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("gradient", [True, False])
def test_compiles(capability: int, gradient: bool) -> None:
    found = compile_launch(launch_of("powers", gradient=gradient), capability)
    assert found.stack == 0
    assert found.registers <= 128
    assert found.sass.count("BAR.SYNC") >= 2  # after the rows, and after each step


def test_formulas_and_levels_make_no_new_kernels() -> None:
    one = specialization(launch_of("arithmetic"))
    assert one == specialization(launch_of("pieces", (0.5, 0.25, 0.25)))
