"""confusion_sums inside torch on every machine: derivatives, threads, memory, operators."""

from __future__ import annotations

import pytest
import torch

import segloss_fast
from segloss_fast._native import _C
from segloss_fast.ops.confusion_sums import confusion_sums
from tests.helpers import gradient, peak_allocation, relative_l2
from tests.machines import Machine, on, sized
from tests.ops.confusion_sums_cases import IGNORED, case_of, definition
from tests.suite.tiers import begins_in


@on("reference", "native")
def test_gradcheck(machine: Machine) -> None:
    case = case_of(3, (3, 4))
    x, labels = case.x.double(), case.target
    labels[0, 0, 0] = 7
    assert torch.autograd.gradcheck(
        lambda x: confusion_sums(x, labels, ignore_index=7, impl=machine.impl),
        (x.requires_grad_(),),
    )


def test_target_and_weight_have_gradients() -> None:
    case = case_of(3, (3, 4))
    x = case.x.double()
    t, w = case.values().requires_grad_(), torch.rand(2, 1, 3, 4, requires_grad=True)
    found = confusion_sums(x, t, voxel_weight=w)
    wanted = definition(x, t, w)
    for a, b in zip(
        torch.autograd.grad(found.square().sum(), (t, w)),
        torch.autograd.grad(wanted.square().sum(), (t, w)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    if _C is not None:
        with pytest.raises(RuntimeError, match="served by the reference only"):
            confusion_sums(x, t, impl="native")


@on("native")
def test_threads_and_runs_agree(machine: Machine) -> None:
    case = case_of(3, (40, 50, 60))
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 7, 2):
            torch.set_num_threads(count)
            results.append(case.solve(machine.impl))
    finally:
        torch.set_num_threads(threads)
    for value, grad in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(grad, results[0][1])


@on("native")
def test_keeps_nothing_of_the_inputs_size(machine: Machine) -> None:
    case = case_of(4, (64, 64, 64))
    x, labels = case.x, case.target
    x.requires_grad_()
    peak = peak_allocation(lambda: confusion_sums(x, labels, impl=machine.impl))
    assert peak < 2**20


@on("native", "interpreted", "cuda")
def test_incoming_gradients_of_any_strides(machine: Machine) -> None:
    case = case_of(3, (7,)).each(machine.place)
    backward = machine.step("backward")
    arguments = (case.x, case.target, None, 0, None)
    factors = machine.place(torch.randn(4, 3, 2, dtype=torch.float64)).permute(2, 1, 0)
    assert torch.equal(backward(factors, *arguments), backward(factors.contiguous(), *arguments))
    confusion_sums(case.x.requires_grad_(), case.target, impl=machine.impl).sum().backward()


@begins_in("test")
@on("native", "interpreted")
@sized(
    "problem",
    [(3, "labels"), (3, "dense")],
    interpreted=[(3, "labels"), (9, "dense")],
)
def test_opcheck(machine: Machine, problem: tuple[int, str]) -> None:
    case = case_of(problem[0], (4, 5), problem[1], "shared")
    arguments = (case.target, case.weight, "softmax", None, machine.impl)
    operators = torch.ops.segloss_fast
    sums = torch.randn(2, problem[0], problem[0] + 1, dtype=torch.float64)
    torch.library.opcheck(operators.confusion_sums_backward, (sums, case.x, *arguments))
    torch.library.opcheck(operators.confusion_sums, (case.x.requires_grad_(), *arguments))


@on("native", "interpreted")
def test_double_backward_says_what_serves_it(machine: Machine) -> None:
    case = case_of(3, (4, 5))
    x, labels = case.x, case.target
    x.requires_grad_()
    sums = confusion_sums(x, labels, impl=machine.impl)
    (grad,) = torch.autograd.grad(sums.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="use impl='reference'"):
        grad.sum().backward()
    sums = confusion_sums(x, labels, impl="reference")
    (grad,) = torch.autograd.grad(sums.square().sum(), x, create_graph=True)
    grad.square().sum().backward()
    assert x.grad is not None


@on("interpreted")
def test_float64_is_refused(machine: Machine) -> None:
    case = case_of(3, (4, 5))
    x, labels = case.x.double(), case.target
    with pytest.raises(RuntimeError, match="no float64"):
        confusion_sums(x, labels, impl=machine.impl)


@on("interpreted")  # natively: tests/test_conformance.py
def test_a_loss(machine: Machine) -> None:
    case = case_of(4, (6, 7), "ignored")
    found = []
    for impl, x in ((machine.impl, case.x), ("reference", case.x.double())):
        options = {"ignore_index": IGNORED, "weighting": "GDL", "impl": impl}
        criterion = segloss_fast.GeneralizedWassersteinDiceLoss(**options)  # type: ignore[arg-type]
        found.append(gradient(lambda x, loss=criterion: loss(x, case.target), x))  # type: ignore[misc]
    assert abs(found[0][0].item() - found[1][0].item()) < 1e-6
    assert relative_l2(found[0][1], found[1][1]) < 1e-6
