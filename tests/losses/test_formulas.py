"""What the formulas of sums promise beyond the generic tests: limits, identities, roots at 0."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import segloss_fast
from segloss_fast import functional
from tests.conformance import problem
from tests.helpers import IMPLS, assert_close, gradient, relative_l2

by_impl = pytest.mark.parametrize("impl", IMPLS)
ROOTS: list[Any] = [
    functional.focal_tversky_loss,
    functional.exp_log_loss,
    functional.unified_focal_loss,
]


@by_impl
@pytest.mark.parametrize("loss", ROOTS)
@pytest.mark.parametrize("scale", [1.0, 10.0, 16.0, 100.0, 1000.0])
def test_a_root_has_a_finite_gradient_however_near_0(impl: str, loss: Any, scale: float) -> None:  # noqa: ANN401
    case = problem("labels")
    one_hot = torch.nn.functional.one_hot(case.target, 3).movedim(-1, 1).double()
    for activation in ("softmax", "sigmoid"):
        x = (scale * (2 * one_hot - 1)).requires_grad_()
        value = loss(x, case.target, activation=activation, impl=impl)
        value.backward()
        assert -1e-12 < value < 1.5
        assert (value < 1e-12) == (scale >= 100)
        assert x.grad is not None
        assert x.grad.isfinite().all()


@by_impl
def test_smoothing_above_1_makes_a_root_0_not_nan(impl: str) -> None:
    case = problem("labels")
    for loss in ROOTS:
        x = (100 * torch.nn.functional.one_hot(case.target, 3).movedim(-1, 1).double()).detach()
        x.requires_grad_()
        value = loss(x, case.target, smooth_nr=5.0, smooth_dr=0.0, impl=impl)
        value.backward()
        assert value.isfinite()
        assert value < 1e-9
        assert x.grad is not None
        assert x.grad.isfinite().all()


@by_impl
def test_gamma_1_is_tversky(impl: str) -> None:
    case = problem("absent")
    focal = segloss_fast.FocalTverskyLoss(gamma=1.0, impl=impl)
    plain = segloss_fast.TverskyLoss(alpha=0.3, beta=0.7, impl=impl)
    value, grad = gradient(lambda x: focal(x, case.target), case.input)
    true_value, true_grad = gradient(lambda x: plain(x, case.target), case.input)
    assert_close(value, true_value, 1e-14)
    assert relative_l2(grad, true_grad) < 1e-14


@by_impl
def test_log_cosh_is_exact_for_small_and_large_losses(impl: str) -> None:
    one_hot = torch.nn.functional.one_hot(torch.tensor([[0, 1, 1, 0]]), 2).movedim(-1, 1).double()
    for distance in (1e-3, 1e-6, 1e-9):  # the loss is half the square of Dice's
        p = one_hot + distance * (0.5 - one_hot)
        keywords: dict[str, Any] = {"activation": "probabilities", "impl": impl}
        dice = functional.dice_loss(p, one_hot, **keywords)
        value = functional.log_cosh_dice_loss(p, one_hot, **keywords)
        assert value.item() == pytest.approx(dice.item() ** 2 / 2, rel=1e-5, abs=1e-25)
    # (nr far above dr) a Dice of -1e6
    value = functional.log_cosh_dice_loss(one_hot, one_hot, smooth_nr=1e6, activation="sigmoid")
    assert value.isfinite()
    assert value > 1e5


@by_impl
@pytest.mark.parametrize("dr", [0.0, 1e-5])
def test_mcc_of_one_sided_targets(impl: str, dr: float) -> None:
    x = torch.randn(1, 1, 6, 7, dtype=torch.float64)
    keywords: dict[str, Any] = {"activation": "sigmoid", "smooth_nr": 0.0, "smooth_dr": dr}
    for target, sure in ((0.0, -1000.0), (1.0, 1000.0)):
        t = torch.full_like(x, target)
        for logits, expected in ((x, 1.0), (x * 0 + sure, 0.0), (x * 0 - sure, 1.0)):
            logits = logits.detach().requires_grad_()
            value = functional.mcc_loss(logits, t, impl=impl, **keywords)
            value.backward()
            assert value.item() == pytest.approx(expected, abs=1e-12)
            assert logits.grad is not None
            assert logits.grad.isfinite().all()
    opposite = (x > 0).double()
    sure_of_it = functional.mcc_loss(-1000 * x.sign(), opposite, impl=impl, **keywords)
    assert sure_of_it.item() == pytest.approx(2.0)


@by_impl
def test_generalized_dice_without_any_class(impl: str) -> None:
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    target = torch.zeros(2, 5, 6, dtype=torch.int64)
    for weighting in ("square", "simple", "uniform"):
        for absent in ("keep", "skip"):
            value = functional.generalized_dice_loss(
                x,
                target,
                weighting=weighting,
                include_background=False,
                absent=absent,
                smooth_nr=0.25,
                smooth_dr=0.5,
                impl=impl,
            )
            (grad,) = torch.autograd.grad(value, x)
            assert grad.isfinite().all()
            if (weighting, absent) != ("uniform", "keep"):
                assert value.item() == 0.5
                assert (grad == 0).all()


def test_generalized_dice_is_differentiable_in_a_soft_target() -> None:
    x, target = torch.randn(2, 1, 3, 4, 5, dtype=torch.float64)
    target = target.softmax(1).requires_grad_()
    for weighting in ("square", "simple", "uniform"):
        loss = segloss_fast.GeneralizedDiceLoss(weighting=weighting)
        assert torch.autograd.gradcheck(lambda t, loss=loss: loss(x, t), (target,), eps=1e-6)


@by_impl
def test_one_class_is_two_under_softmax(impl: str) -> None:
    case = problem("labels", classes=1)
    loss = segloss_fast.UnifiedFocalLoss(impl=impl)

    def two(x: Tensor) -> Tensor:
        value: Tensor = loss(torch.cat([torch.zeros_like(x), x], 1), (case.target != 0).long())
        return value

    one = segloss_fast.UnifiedFocalLoss(activation="sigmoid", impl=impl)
    value, grad = gradient(lambda x: one(x, case.target), case.input)
    true_value, true_grad = gradient(two, case.input)
    assert_close(value, true_value, 1e-13)
    assert relative_l2(grad, true_grad) < 1e-13


@by_impl
def test_balanced_cross_entropy_gives_both_sides_the_same_weight(impl: str) -> None:
    target = torch.zeros(1, 1, 10, 10)
    target[..., 0, :5] = 1
    x = torch.zeros_like(target, requires_grad=True)
    functional.balanced_cross_entropy_loss(x, target, activation="sigmoid", impl=impl).backward()
    assert x.grad is not None
    positive, negative = x.grad[target == 1].sum(), x.grad[target == 0].sum()
    assert positive.item() == pytest.approx(-0.5 * 0.05 * 0.95)
    assert negative.item() == pytest.approx(0.5 * 0.05 * 0.95)
