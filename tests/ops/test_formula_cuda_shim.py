"""How many launches a step on CUDA has by the C++ kernels, counted where these run on the CPU."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

import segloss_fast as sf
from segloss_fast._native import _C
from segloss_fast.ops._formula import evaluate
from segloss_fast.ops.region_sums import direct, op
from tests import machines
from tests.helpers import assert_close, count_operators, forget_plans

pytestmark = [
    pytest.mark.shim,
    pytest.mark.skipif(_C is None, reason="the native module is not built"),
]
LEVELS = 5


def made(loss: Any, xs: list[Tensor], target: Tensor) -> list[Tensor]:  # noqa: ANN401
    """Return the value and the gradients of a step."""
    value = loss(xs if len(xs) > 1 else xs[0], target)
    return [value.detach(), *torch.autograd.grad(value, xs, torch.ones(()))]


@pytest.mark.parametrize(("levels", "most"), [(1, 5), (LEVELS, 5)])
def test_launches_of_a_step(monkeypatch: pytest.MonkeyPatch, levels: int, most: int) -> None:
    shim = machines.shim("region_sums")
    forget_plans(monkeypatch)
    xs = [torch.randn(2, 3, 48 >> i, 16 >> i).requires_grad_() for i in range(levels)]
    target = torch.randint(0, 3, (2, 48, 16))
    loss: Any = sf.DiceCELoss()
    loss = sf.DeepSupervisionLoss(loss) if levels > 1 else loss
    expected = made(loss, xs, target)

    formulas: Counter[str] = Counter()

    def counted(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        formulas["interpret"] += 1  # a launch of Triton's, see test_formula_interpreted.py
        return evaluate(*arguments, **options)

    monkeypatch.setattr(direct, "evaluate", counted)
    for step, name in (("forward", "_region_sums"), ("backward", "_region_sums_backward")):
        operator = getattr(torch.ops.segloss_shim_region_sums, name).default
        monkeypatch.setitem(op.kernels._steps, ("native", step), operator)
    before = shim.segloss_shim_launches()
    with count_operators() as operators:
        found = made(loss, xs, target)
    launches = shim.segloss_shim_launches() - before
    # The value is a tensor made on the host here, and written by the formula's kernel on a device.
    others = {name: n for name, n in operators.items() if name.startswith("aten")}
    assert others == {"aten.mul.Tensor": 1, "aten.scalar_tensor.default": 1, "aten.ones.default": 1}
    assert launches >= 3  # partial sums, their total, the gradient
    assert launches + formulas.total() + others["aten.mul.Tensor"] <= most
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, 1e-6)
