"""component_sums inside torch on every machine: derivatives, threads, memory, operators, graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast import component_sums
from segloss_fast.ops.component_sums import TERMS
from tests.helpers import gradient, peak_allocation
from tests.machines import Machine, on
from tests.ops.component_sums_cases import solve_both
from tests.suite.tiers import begins_in


def problem(size: tuple[int, ...], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return an input, labels, and bins of its two classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2, *size, generator=generator)
    labels = torch.randint(0, 2, (2, *size), generator=generator)
    bins = torch.randint(0, count + 1, (2, 2, *size), generator=generator, dtype=torch.int32)
    return x, labels, bins


@on("native")
def test_threads_and_runs_agree(machine: Machine) -> None:
    x, labels, bins = problem((40, 50, 60), 2000)

    def solve() -> tuple[Tensor, Tensor]:
        return solve_both(machine, x, labels, bins, count=2000, terms=TERMS)

    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 7, 2):
            torch.set_num_threads(count)
            results.append(solve())
    finally:
        torch.set_num_threads(threads)
    for value, grad in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(grad, results[0][1])


@on("native")
def test_keeps_nothing_of_the_inputs_size(machine: Machine) -> None:
    x, labels, bins = problem((64, 64, 64), 3)
    x.requires_grad_()
    peak = peak_allocation(
        lambda: component_sums(x, labels, bins, count=3, terms=TERMS, impl=machine.impl)
    )
    assert peak < 2**20


def test_target_and_weight_are_served_by_the_reference() -> None:
    x, labels, bins = problem((3, 4), 2)
    w = torch.rand(2, 1, 3, 4, requires_grad=True)
    found = component_sums(x, labels, bins, count=2, voxel_weight=w, terms=["weight"]).rows
    (grad,) = torch.autograd.grad(found[..., 1].sum(), w)
    assert torch.equal(grad, (bins == 1).sum(1, keepdim=True).float())


@on("native", "shim")
def test_kernels_refuse_a_weight_that_wants_a_gradient(machine: Machine) -> None:
    x, labels, bins = problem((3, 4), 2)
    w = torch.rand(2, 1, 3, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="served by the reference only"):
        component_sums(x, labels, bins, count=2, voxel_weight=w, impl=machine.asked)


@on("native", "shim")
def test_incoming_gradients_of_any_strides(machine: Machine) -> None:
    x, labels, bins = problem((7, 5), 3)
    backward = machine.step("backward")
    arguments = (x, labels, bins, None, 3, 0, list(range(9)), None)
    factors = torch.randn(4, 2, 2, 9, dtype=torch.float64).permute(3, 2, 1, 0)
    assert torch.equal(backward(factors, *arguments), backward(factors.contiguous(), *arguments))


@begins_in("test")
@on("native")
@pytest.mark.parametrize("dense", [False, True])
def test_opcheck(machine: Machine, dense: bool) -> None:
    x, labels, bins = problem((4, 5), 3)
    weight = torch.rand(2, 1, 4, 5)
    target = labels[:, None].expand(2, 2, 4, 5).float() if dense else labels
    options = (3, "softmax", list(TERMS), None, machine.impl)
    operators = torch.ops.segloss_fast
    grad = torch.randn(len(TERMS), 2, 2, 4, dtype=torch.float64)
    arguments = (target, bins, weight, *options)
    torch.library.opcheck(operators.component_sums_backward, (grad, x, *arguments))
    torch.library.opcheck(operators.component_sums, (x.requires_grad_(), *arguments))


@on("reference", "native", "shim")
def test_double_backward_says_what_serves_it(machine: Machine) -> None:
    x, labels, bins = problem((4, 5), 3)
    x.requires_grad_()
    rows = component_sums(x, labels, bins, count=3, impl=machine.asked).rows
    (grad,) = torch.autograd.grad(rows.square().sum(), x, create_graph=True)
    if machine.impl == "reference":
        grad.square().sum().backward()
        assert x.grad is not None
        return
    with pytest.raises(RuntimeError, match="use impl='reference'"):
        grad.sum().backward()


@on("reference", "native")
def test_vmap_is_each_sample(machine: Machine) -> None:
    x, labels, bins = problem((4, 5), 3)

    def rows(x: Tensor, labels: Tensor, bins: Tensor, impl: str = "auto") -> Tensor:
        return component_sums(x[None], labels[None], bins[None], count=3, impl=impl).rows[:, 0]

    found = torch.func.vmap(rows)(x, labels, bins)
    for i in range(2):
        torch.testing.assert_close(found[i], rows(x[i], labels[i], bins[i], machine.impl))


@on("reference", "native")
@pytest.mark.torch_compile
def test_compiles_into_one_graph(machine: Machine) -> None:
    x, labels, bins = problem((4, 5), 3)

    def run(x: Tensor) -> Tensor:
        return component_sums(x, labels, bins, count=3, terms=TERMS, impl=machine.impl).rows

    torch._dynamo.reset()
    compiled: Any = torch.compile(run, fullgraph=True, backend="aot_eager")
    value, grad = gradient(run, x)
    other, other_grad = gradient(lambda x: compiled(x), x)
    torch._dynamo.reset()
    torch.testing.assert_close(other, value)
    torch.testing.assert_close(other_grad, grad)
