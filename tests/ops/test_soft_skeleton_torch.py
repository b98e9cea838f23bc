"""soft_skeleton inside torch on every machine: derivatives, threads, memory, operators."""

from __future__ import annotations

import pytest
import torch

from segloss_fast.ops.soft_skeleton import soft_skeleton
from tests.helpers import peak_allocation
from tests.machines import Machine, on
from tests.ops.soft_skeleton_cases import check, solve, values


@on("reference", "native")
def test_gradcheck(machine: Machine) -> None:
    x = values("random", (1, 2, 4, 3, 5)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: soft_skeleton(x, 2, impl=machine.impl), (x,), eps=1e-7
    )


@on("native", "interpreted")
def test_the_public_way(machine: Machine) -> None:
    x = values("random", (1, 2, 2, 4), torch.float32)
    once, twice = solve(x, 1, machine.impl, 1), solve(x, 1, machine.impl, 1)
    check(once, x, 1, 1)
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


@on("native")
def test_any_number_of_threads_gives_the_same_bits(machine: Machine) -> None:
    before = torch.get_num_threads()
    x = values("random", (1, 1, 70, 12, 13), torch.float32)
    try:
        results = []
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            results.append(solve(x, 3, machine.impl))
    finally:
        torch.set_num_threads(before)
    for found, grad in results[1:]:
        assert torch.equal(found, results[0][0])
        assert torch.equal(grad, results[0][1])


@on("native")
def test_backward_keeps_a_few_slices_only(machine: Machine) -> None:
    x = values("random", (1, 1, 64, 24, 24), torch.float32).requires_grad_()
    result, scratch = 4 * x.numel(), 2 * 64 * (5 * 60 + 20 * 8) * 24 * 24 // 64

    def step() -> None:
        soft_skeleton(x, 3, impl=machine.impl).sum().backward()
        x.grad = None

    assert peak_allocation(step) < 3 * result + 2 * scratch


@on("native", "interpreted")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_opcheck(machine: Machine, layout: torch.memory_format) -> None:
    dtype = machine.pick(torch.float64, interpreted=torch.float32)
    shape, k = machine.pick(((2, 3, 5, 6), 2), interpreted=((1, 2, 1, 3), 0))
    x = values("random", shape, dtype).to(memory_format=layout)
    operator = torch.ops.segloss_fast.soft_skeleton.default
    torch.library.opcheck(operator, (x.clone().requires_grad_(), k, 1, machine.impl))
    torch.library.opcheck(operator, (x > 0.5, k, 0, machine.impl))
    backward = torch.ops.segloss_fast.soft_skeleton_backward.default
    torch.library.opcheck(backward, (torch.ones_like(x), x, k, 1, machine.impl))


@on("native", "interpreted")
def test_double_backward_is_refused(machine: Machine) -> None:
    x = values("random", (1, 1, 2, 4), torch.float32).requires_grad_()
    (grad,) = torch.autograd.grad(
        soft_skeleton(x, 1, impl=machine.impl).square().sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="soft_skeleton has no second derivative"):
        grad.sum().backward()
