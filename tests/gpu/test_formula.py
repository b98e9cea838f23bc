"""Programs of formulas on a CUDA device, against PyTorch on the CPU; the launches of a step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import segloss_fast as sf
from segloss_fast.ops._formula import evaluate, why_not
from tests.gpu.device import DEVICE, KERNELS, no_synchronisation, require
from tests.ops.formula_cases import FORMULAS, WEIGHTS, compare, examples, expected, traced

LAUNCHES = 5


@pytest.mark.parametrize("name", FORMULAS)
def test_equals_pytorch(name: str) -> None:
    reason = why_not(torch.device(DEVICE))
    if reason is not None:
        pytest.skip(reason)
    program = traced(FORMULAS[name])
    weights = WEIGHTS.to(DEVICE)
    for rows in examples():
        true = expected(FORMULAS[name], rows)
        there = rows.to(DEVICE)
        found = evaluate(program, there, [weights])
        with no_synchronisation():
            again = evaluate(program, there, [weights])
        for one, other in zip(found, again, strict=True):
            assert one is not None
            assert other is not None
            assert torch.equal(one.nan_to_num(), other.nan_to_num())
        assert found[1] is not None
        compare((found[0].cpu(), found[1].cpu()), true)


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("levels", [1, 5])
def test_launches_of_a_step(impl: str, levels: int) -> None:
    require(impl)
    if why_not(torch.device(DEVICE)) is not None:
        pytest.skip("without Triton the formula is PyTorch's")
    if impl == "triton" and levels > 1:
        pytest.skip("Triton launches its sums level by level")
    xs = [torch.randn(2, 4, 32 >> i, 32, device=DEVICE).requires_grad_() for i in range(levels)]
    target = torch.randint(0, 4, (2, 32, 32), device=DEVICE)
    loss: Any = sf.DeepSupervisionLoss(sf.DiceCELoss(impl=impl))
    one = torch.ones((), device=DEVICE)

    def step() -> None:
        torch.autograd.grad(loss(xs, target), xs, one)

    step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        step()
        torch.cuda.synchronize()
    kernels = [event.name for event in found.events() if event.device_type.name == "CUDA"]
    assert 0 < len(kernels) <= LAUNCHES + 3 * (levels > 1), kernels
