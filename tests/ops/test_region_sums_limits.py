"""region_sums at the ends, on every machine: saturated and infinite logits, far and empty ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from segloss_fast.ops.region_sums import TERMS
from segloss_fast.ops.region_sums.options import GAMMA_TERMS
from tests.helpers import relative_l2
from tests.machines import Machine, on, sized
from tests.ops import definition
from tests.ops.region_sums_cases import (
    EPSILON,
    LOSS_TERMS,
    Case,
    by_definition,
    case_of,
    check,
    far_apart,
    log_one_minus_softmax,
    options_of,
    saturated,
    solve,
    sums,
    truth,
)

WIDE = [torch.float32, torch.float64]
by_dtype = sized("dtype", WIDE, interpreted=WIDE[:1])
by_activation = pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
by_any_activation = pytest.mark.parametrize("activation", ["softmax", "sigmoid", "probabilities"])
PROBABILITIES = (1e-30, 1e-8, 3e-8, 1e-6, 1e-3, 0.3, 0.5, 0.7, 1 - 1e-6)


def only(machine: Machine, dtype: torch.dtype) -> None:
    """Skip what the machine has not."""
    if dtype not in machine.dtypes:
        pytest.skip("not of this machine")


def total(machine: Machine, case: Case) -> tuple[Tensor, Tensor]:
    """Return the rows, and the gradient of their sum."""
    case = case.each(machine.place)
    rows = sums(machine, replace(case, x=case.x.requires_grad_()))
    (grad,) = torch.autograd.grad(rows.sum(), case.x)
    return rows.detach().cpu(), grad.cpu()


@by_activation
@by_dtype
@sized("scale", [1e-3, 1.0, 5.0, 30.0, 300.0, 1e4], interpreted=[1e-3, 30.0, 300.0, 1e4])
@sized("classes", [4], interpreted=[4, 150])
def test_saturated_logits(
    machine: Machine, classes: int, scale: float, dtype: torch.dtype, activation: str
) -> None:
    only(machine, dtype)
    case = saturated(dtype, scale, (classes, *machine.pick((31, 7), interpreted=(5, 7))))
    case = case.having(activation=activation, ce_activation=activation)
    rows, grad = solve(machine, case)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(rows, by_definition(case), rtol=tolerance, atol=tolerance)
    assert grad.isfinite().all()
    if machine.impl != "reference":
        assert relative_l2(grad, truth(case)[1]) < tolerance


@by_dtype
@sized("scale", [1e-3, 1.0, 5.0, 30.0, 300.0, 1e4], interpreted=[1.0, 30.0, 300.0])
def test_gradient_of_log_one_minus_softmax(
    machine: Machine, scale: float, dtype: torch.dtype
) -> None:
    only(machine, dtype)
    case = saturated(dtype, scale, machine.pick((4, 31, 7), interpreted=(4, 5, 7)))
    t = definition.one_hot(case.target, 4)[0]
    exact = case.x.double().requires_grad_()
    (true,) = torch.autograd.grad((-(1 - t) * log_one_minus_softmax(exact)).sum(), exact)
    _, grad = total(machine, case.having(terms=("nll_neg",)))
    assert relative_l2(grad, true) < (1e-5 if dtype == torch.float32 else 1e-12)


@by_dtype
@by_activation
@pytest.mark.parametrize("margin", [1.0, 4.0, 8.0, 12.0])
def test_sums_of_nearly_certain_voxels(
    machine: Machine, margin: float, activation: str, dtype: torch.dtype
) -> None:
    """log(1 - p) and p^gamma log(1 - p) of the classes that are right to be improbable."""
    only(machine, dtype)
    labels = torch.tensor([[0, 1] * 50])
    t = definition.one_hot(labels, 2)[0]
    x = (margin * (2 * t - 1)).to(dtype)
    rows, grad = total(
        machine, Case(x, labels, None, options_of(("focal_neg", "nll_neg"), activation))
    )
    exact = x.double().requires_grad_()
    # Of two classes: 1 - p is the sigmoid of this.
    other = exact.flip(1) - exact if activation == "softmax" else -exact
    log_q, p = functional.logsigmoid(other), (-other).sigmoid()
    true = torch.stack([-(1 - t) * p**2 * log_q, -(1 - t) * log_q]).sum(-1)
    (true_grad,) = torch.autograd.grad(true.sum(), exact)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(rows, true.detach().view_as(rows), rtol=tolerance, atol=0)
    assert relative_l2(grad, true_grad) < tolerance


@by_dtype
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_one_probability_is_as_in_binary_cross_entropy(
    machine: Machine, t: float, dtype: torch.dtype
) -> None:
    only(machine, dtype)
    for p in PROBABILITIES:
        x, target = torch.full((1, 1, 1), p, dtype=dtype), torch.full((1, 1, 1), t, dtype=dtype)
        rows, _ = solve(
            machine, Case(x, target, None, options_of(("nll", "nll_neg"), "probabilities"))
        )
        theirs = functional.binary_cross_entropy(x, target).double()
        torch.testing.assert_close(rows.sum(), theirs, rtol=1e-6, atol=0)


@by_dtype
def test_probabilities_of_zero_and_one_are_as_in_binary_cross_entropy(
    machine: Machine, dtype: torch.dtype
) -> None:
    only(machine, dtype)
    p = torch.tensor([0.0, 1e-40, 1e-30, 0.3, 1 - 1e-7, 1.0], dtype=dtype).repeat(2).view(1, 1, 12)
    t = torch.tensor([0.0] * 6 + [1.0] * 6, dtype=dtype).view(1, 1, 12)
    rows, grad = total(machine, Case(p, t, None, options_of(("nll", "nll_neg"), "probabilities")))
    theirs = p.clone().requires_grad_()
    loss = functional.binary_cross_entropy(theirs, t, reduction="sum")
    (true,) = torch.autograd.grad(loss, theirs)
    torch.testing.assert_close(rows.sum().to(dtype), loss.detach())
    # Where both are 0, or both 1, torch has the quotient 0 / 1e-12; the derivative is 1.
    differs = (p.detach() - t).abs() > 1e-6
    torch.testing.assert_close(grad[differs], true[differs], rtol=1e-5, atol=0)


@by_any_activation
@by_dtype
def test_a_nan_has_a_nan_gradient(machine: Machine, dtype: torch.dtype, activation: str) -> None:
    only(machine, dtype)
    x, labels = torch.full((1, 2, 3), torch.nan, dtype=dtype), torch.zeros(1, 3, dtype=torch.uint8)
    for terms in (("nll",), ("target", "nll")):
        _, grad = solve(machine, Case(x, labels, None, options_of(terms, activation)))
        assert grad[:, 0].isnan().all()


@by_any_activation
def test_a_nan_propagates_as_in_the_reference(machine: Machine, activation: str) -> None:
    x = torch.full((2, 3, 4), 0.25)
    x[1, 1, 2] = torch.nan
    # Not those where the reference has NaN times a target of 0.
    terms = [name for name in TERMS if name not in GAMMA_TERMS]
    labels = torch.tensor([[0, 1, 2, 1]] * 2)
    case = Case(x, labels, None, options_of(terms, activation))
    for found, true in zip(solve(machine, case), truth(case), strict=True):
        assert torch.equal(found.isnan(), true.isnan())


@by_dtype
@sized("classes", [4], interpreted=[4, 40, 150], shim=[4, 40])
def test_a_class_masked_by_an_infinite_logit(
    machine: Machine, classes: int, dtype: torch.dtype
) -> None:
    only(machine, dtype)
    case = saturated(dtype, 2.0, (classes, *machine.pick((31, 7), interpreted=(3, 7))))
    case = replace(case, target=case.target % (classes - 1)).having(
        terms=("tp", "pred", "nll", "focal", "nll_neg", "focal_neg")
    )
    without = case.x[:, :-1].clone()
    x = torch.cat([without, torch.full_like(case.x[:, :1], -torch.inf)], 1)
    rows, grad = total(machine, replace(case, x=x))
    exact = without.double().requires_grad_()
    true = sums(Machine("region_sums", "", "reference", "reference"), replace(case, x=exact))
    (true_grad,) = torch.autograd.grad(true.sum(), exact)
    rtol = 2e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(rows[..., :-1], true.detach(), rtol=rtol, atol=0)
    assert (rows[..., -1] == 0).all()
    assert relative_l2(grad[:, :-1], true_grad) < (1e-5 if dtype == torch.float32 else 1e-12)
    assert (grad[:, -1] == 0).all()


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("right", [False, True])
def test_an_infinite_logit_costs_nothing_if_right_and_everything_if_wrong(
    machine: Machine, dense: bool, positive: bool, right: bool
) -> None:
    """Of each pair of logarithms, the one whose factor is 0 has no share, infinite or not."""
    x = torch.full((1, 1, 3), torch.inf if positive else -torch.inf)
    label = positive == right
    target = torch.full((1, 1, 3) if dense else (1, 3), int(label), dtype=torch.float64)
    target = target if dense else target.long()
    terms = ("nll", "nll_neg", "focal", "focal_neg")
    rows, grad = total(machine, Case(x, target, None, options_of(terms, "sigmoid")))
    cost = 0.0 if right else torch.inf
    pair = [cost, 0.0] if label else [0.0, cost]
    assert rows.flatten().tolist() == [*pair, *pair]
    if right:
        assert (grad == 0).all()


@by_dtype
@sized("classes", [2], interpreted=[2, 40, 150], shim=[2, 40])
def test_infinite_and_nan_logits_are_as_in_torch(
    machine: Machine, classes: int, dtype: torch.dtype
) -> None:
    only(machine, dtype)

    def pred(x: Tensor, terms: tuple[str, ...], activation: str = "softmax") -> Tensor:
        labels = torch.zeros(1, x.shape[2], dtype=torch.uint8)
        rows, _ = solve(machine, Case(x, labels, None, options_of(terms, activation)))
        return rows[terms.index("pred")]

    one = torch.tensor([0.0, torch.inf, -torch.inf, torch.nan], dtype=dtype).view(1, 1, 4)
    assert pred(one, ("pred",), "sigmoid").isnan().all()
    assert pred(one[..., :3], ("pred",), "sigmoid").item() == 1.5
    for value in (torch.inf, -torch.inf, torch.nan):
        x = torch.zeros(1, classes, 3, dtype=dtype)
        x[0, 1 if value != -torch.inf else slice(None), 1] = value
        for terms in (
            ("pred",),
            ("tp", "pred", "nll_neg"),
            *machine.pick((TERMS,), interpreted=()),
        ):
            assert pred(x, terms).isnan().all()


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
@by_any_activation
def test_powers_have_finite_gradients_at_the_ends(
    machine: Machine, gamma: float, activation: str
) -> None:
    one_hot = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).T[None]
    x = one_hot if activation == "probabilities" else 2000 * one_hot - 1000
    case = Case(x, torch.tensor([[0, 1]]), None, options_of(TERMS, activation, gamma=gamma))
    rows, grad = total(machine, case)
    assert rows.isfinite().all()
    assert grad.isfinite().all()


@sized("size", [(64, 64, 64)], interpreted=[(300, 300)], shim=[(300, 300)])
def test_sums_in_half_precision_do_not_overflow(machine: Machine, size: tuple[int, ...]) -> None:
    x = torch.zeros(1, 2, *size, dtype=torch.float16)
    labels = torch.zeros(1, *size, dtype=torch.uint8)
    rows, _ = solve(machine, Case(x, labels, None, options_of(("pred",))))
    assert rows.tolist() == [[[x.numel() / 4] * 2]]


@on("reference", "native", "interpreted", "shim")  # a device has to hold what lies between
@pytest.mark.parametrize("what", ["x", "target", "weight"])
def test_offsets_past_2_to_the_31(machine: Machine, what: str) -> None:
    far, near = far_apart(what)
    rows, grad = check(machine, near)
    far_rows, far_grad = solve(machine, far)
    torch.testing.assert_close(far_rows, rows, rtol=10 * EPSILON, atol=0)
    assert relative_l2(far_grad, grad) < 1e-3


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (2, 3, 4, 0, 5)], ids=str)
def test_no_voxels_and_no_items(machine: Machine, shape: tuple[int, ...]) -> None:
    labels = torch.zeros((shape[0], *shape[2:]), dtype=torch.int64)
    rows, grad = solve(machine, Case(torch.randn(shape), labels, None, options_of()))
    assert rows.shape == (len(TERMS), *shape[:2])
    assert (rows == 0).all()
    assert grad.shape == shape


@sized("classes", [3], interpreted=[3, 40, 150], shim=[3, 140], cuda=[3, 105])
def test_every_output_is_written(machine: Machine, classes: int) -> None:
    """In deterministic mode torch fills fresh memory with NaN."""
    size = machine.pick((5, 17, 33), interpreted=(7, 5), shim=(5, 37))
    case = case_of((2, classes, *size), terms=machine.pick(TERMS, interpreted=LOSS_TERMS))
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        for tensor in solve(machine, case.to(torch.float32)):
            assert tensor.isfinite().all()
    finally:
        torch.use_deterministic_algorithms(False)
