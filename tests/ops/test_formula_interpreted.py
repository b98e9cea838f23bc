"""Programs of formulas by Triton's kernel, under its interpreter; how many launches a step has."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

import segloss_fast as sf
from segloss_fast.ops._formula import evaluation, triton_launch
from segloss_fast.ops._formula.program import Program
from segloss_fast.ops._triton.launch import Launch
from tests.helpers import assert_close, count_operators, forget_plans, relative_l2
from tests.ops.formula_cases import FORMULAS, WEIGHTS, compare, examples, expected, traced

pytestmark = [
    # Of the interpreter's arithmetic with NaN and infinity, which the tests are about.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.usefixtures("new_tensors_are_nan"),
]


@pytest.fixture(autouse=True)
def no_plans_before(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_plans(monkeypatch)


def run(program: Program, rows: Tensor, levels: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    loss = torch.empty((), dtype=torch.float32 if program.single else torch.float64)
    grad = torch.empty_like(rows)
    triton_launch.launch(program, rows, [WEIGHTS], levels, loss, grad)
    return loss, grad


@pytest.mark.followed  # each has operations of its own
@pytest.mark.parametrize("name", FORMULAS)
def test_equals_pytorch(name: str) -> None:
    program = traced(FORMULAS[name])
    first, second, *strange = [*examples()][:2] + [*examples()][2::4]
    true = [expected(FORMULAS[name], rows) for rows in (first, second)]
    value = sum(0.75 * value for value, _ in true)
    grad = torch.cat([0.75 * grad for _, grad in true], 1)
    assert isinstance(value, Tensor)
    compare(run(program, torch.cat([first, second], 1), (0.75, 0.75)), (value, grad))
    own = [expected(FORMULAS[name], rows) for rows in strange]
    _, found = run(program, torch.cat(strange, 1), (1.0,) * len(strange))
    summed = torch.stack([value for value, _ in own]).sum()
    compare((summed, found), (summed, torch.cat([grad for _, grad in own], 1)))


def test_the_value_alone() -> None:
    program = traced(FORMULAS["pieces"])
    rows = next(examples())
    loss = torch.empty((), dtype=torch.float64)
    triton_launch.launch(program, rows, [WEIGHTS], (1.0,), loss, None)
    assert torch.equal(loss, run(program, rows, (1.0,))[0])


def test_launches_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: partial sums, total, formula; a product with the gradient, backward."""
    monkeypatch.setattr(evaluation, "NATIVE", ())
    launches: Counter[str] = Counter()
    enqueue = Launch.__call__

    def counted(launch: Launch) -> None:
        launches[launch.kernel.fn.__name__] += 1
        with _disable_current_modes():  # what the interpreter does is no operation of the loss
            enqueue(launch)

    monkeypatch.setattr(Launch, "__call__", counted)
    x = torch.randn(2, 3, 4, 5).requires_grad_()
    target = torch.randint(0, 3, (2, 4, 5))
    ones = torch.ones(())

    def step(loss: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        value = loss(x, target)
        return value.detach(), torch.autograd.grad(value, x, ones)[0]

    loss = sf.DiceCELoss(impl="triton")
    step(loss)  # traces
    launches.clear()
    with count_operators() as operators:
        value, grad = step(loss)
    assert launches.total() + operators.total() == 5, (launches, operators)
    assert launches["interpret"] == 1
    assert operators == {"aten.mul.Tensor": 1}
    true_value, true_grad = step(sf.DiceCELoss(impl="native"))
    assert_close(value, true_value, 1e-6)
    assert relative_l2(grad, true_grad) < 1e-6
