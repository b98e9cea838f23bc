"""Formulas traced into programs, run by the interpreter in C++, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast._native import _C
from segloss_fast.ops._formula import Untraceable, evaluate, trace
from segloss_fast.ops._formula.program import OPERATIONS
from tests.ops.formula_cases import FORMULAS, SHAPE, WEIGHTS, compare, examples, expected, traced
from tests.sanitizers import fuzz_formula

needs_native = pytest.mark.skipif(_C is None, reason="the native module is not built")
OUTSIDE = torch.ones(5, dtype=torch.float64)


@needs_native
@pytest.mark.parametrize("name", FORMULAS)
def test_equals_pytorch(name: str) -> None:
    program = traced(FORMULAS[name])
    for rows in examples():
        true = expected(FORMULAS[name], rows)
        compare(evaluate(program, rows, [WEIGHTS]), true)
        value, nothing = evaluate(program, rows, [WEIGHTS], gradient=False)
        assert nothing is None
        torch.testing.assert_close(value, true[0], equal_nan=True)


@needs_native
@pytest.mark.parametrize("name", FORMULAS)
def test_levels_are_added_by_their_weights(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    levels = [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(3)]
    weights = (0.5, 0.3, -0.2)
    program = traced(FORMULAS[name])
    true = [expected(FORMULAS[name], rows) for rows in levels]
    value = torch.stack([w * v for w, (v, _) in zip(weights, true, strict=True)]).sum()
    grad = torch.cat([w * g for w, (_, g) in zip(weights, true, strict=True)], 1)
    compare(evaluate(program, torch.cat(levels, 1), [WEIGHTS], weights), (value, grad))


def test_every_operation_is_tried() -> None:
    programs = [traced(formula) for formula in FORMULAS.values()]
    used = {OPERATIONS[step[0]] for program in programs for step in program.steps}
    assert used == set(OPERATIONS)


def _reads_a_number(a: Tensor) -> Tensor:
    return a.sum() if a.sum() > 0 else a.mean()


REFUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "an operation that no step has": lambda a: a.erf().sum(),
    "Python looks at a number": _reads_a_number,
    "a tensor from outside": lambda a: (a * OUTSIDE).sum(),
    "random numbers": lambda a: (a * torch.rand(5, dtype=torch.float64)).sum(),
    "more than a number": lambda a: a.sum(0),
    "half precision": lambda a: a.sum().half(),
    "nothing of the sums": lambda a: torch.ones((), dtype=torch.float64),
    "too many axes": lambda a: torch.stack([torch.stack([a, a]), torch.stack([a, a])]).exp().sum(),
    "an output of its own": lambda a: (
        torch.exp(a.detach(), out=torch.empty_like(a)).sum() + a.sum()
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_refused(why: str) -> None:
    def formula(rows: Callable[..., Tensor], _: Sequence[Tensor]) -> Tensor:
        return REFUSED[why](rows(1, 2, 5)[0])

    with pytest.raises(Untraceable):
        trace(formula)


def test_rows_are_asked_for_once() -> None:
    def formula(rows: Callable[..., Tensor], _: Sequence[Tensor]) -> Tensor:
        return rows(1, 2, 5).sum() + rows(1, 2, 5).sum()

    with pytest.raises(Untraceable):
        trace(formula)


@needs_native
def test_rows_of_another_shape_are_refused() -> None:
    program = traced(FORMULAS["arithmetic"])
    for rows in (torch.ones(3, 2, 4), torch.ones(3, 3, 5), torch.ones(5, 2, 3).movedim(0, 2)):
        with pytest.raises(ValueError, match="other rows"):
            evaluate(program, rows.double(), [WEIGHTS])


@needs_native
@pytest.mark.parametrize(
    ("place", "number"),
    [(0, 24), (0, -1), (3, 0), (6, 10**6), (6, 4), (6, 0), (10, -1), (10, 5), (11, 10**6)],
)
def test_a_step_outside_of_the_array_is_refused(place: int, number: int) -> None:
    step: list[Any] = [3, 0, 2, 2, 1, 1, *(3, 1, 0, 0), *(0, 0, 0, 0), *(1, 1, 0, 0), *(0, 0, 0, 0)]
    own: Any = _C
    own.Formula(step, [2.0], [], 1, 2, 5, 3, 1)
    step[place] = number
    with pytest.raises(ValueError, match="formula: a step outside of the array"):
        own.Formula(step, [2.0], [], 1, 2, 5, 3, 1)
    with pytest.raises(ValueError, match="a part of a step"):
        own.Formula(step[1:], [2.0], [], 1, 2, 5, 3, 1)
    with pytest.raises(ValueError, match="sizes that do not fit"):
        own.Formula([], [2.0], [], 1, 2, 4, 3, 0)


@needs_native
def test_random_programs() -> None:
    """As Python does them; wrong numbers among them are refused, or do no harm."""
    fuzz_formula.draw.seed(1)
    for _ in range(60):
        fuzz_formula.run_good()
    for _ in range(200):
        fuzz_formula.run_bad()
    fuzz_formula.run_steps()
