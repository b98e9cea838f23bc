"""region_sums at the ends: saturated and infinite logits, probabilities of 0 and 1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from segloss_fast import region_sums
from segloss_fast.ops.region_sums import TERMS
from tests.helpers import IMPLS, relative_l2
from tests.ops import definition

by_impl = pytest.mark.parametrize("impl", IMPLS)
by_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def log_one_minus_softmax(x: Tensor) -> Tensor:
    """Return log(1 - p) from the other classes, for the gradient by autograd."""
    classes = range(x.shape[1])
    others = [torch.stack([x[:, j] for j in classes if j != c], 1).logsumexp(1) for c in classes]
    return torch.stack(others, 1) - x.logsumexp(1, keepdim=True)


def saturated(dtype: torch.dtype, scale: float) -> tuple[Tensor, Tensor]:
    """Return logits that differ by a few times the scale, and labels, right and wrong ones."""
    generator = torch.Generator().manual_seed(1)
    x = (scale * torch.randn((1, 4, 31, 7), generator=generator)).to(dtype)
    return x, torch.randint(0, 4, (1, 31, 7), generator=generator)


@by_impl
@by_dtype
@pytest.mark.parametrize("scale", [1e-3, 5.0, 30.0, 300.0, 1e4])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_saturated_logits(impl: str, dtype: torch.dtype, scale: float, activation: str) -> None:
    x, labels = saturated(dtype, scale)
    x.requires_grad_()
    terms = ("tp", "pred", "nll", "nll_neg", "nll_all", "focal", "focal_neg")
    rows = region_sums(x, labels, activation=activation, terms=terms, gamma=2, impl=impl).rows
    values = definition.one_hot(labels, 4)[0]
    truth = definition.sums(
        x.detach(),
        values,
        torch.ones(()).expand_as(x),
        activation=activation,
        ce_activation=activation,
        gamma=2.0,
        terms=terms,
    )
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(rows, truth, rtol=tolerance, atol=tolerance)
    rows.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@by_impl
@by_dtype
@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_gradient_of_log_one_minus_softmax(impl: str, dtype: torch.dtype, scale: float) -> None:
    x, labels = saturated(dtype, scale)
    t = definition.one_hot(labels, 4)[0]
    exact = x.double().requires_grad_()
    (-(1 - t) * log_one_minus_softmax(exact)).sum().backward()
    x.requires_grad_()
    region_sums(x, labels, terms=["nll_neg"], impl=impl).nll_neg.sum().backward()
    assert x.grad is not None
    assert exact.grad is not None
    assert relative_l2(x.grad, exact.grad) < (1e-5 if dtype == torch.float32 else 1e-12)


@by_impl
@by_dtype
@pytest.mark.parametrize("margin", [1.0, 4.0, 8.0, 12.0])
def test_sums_of_nearly_certain_voxels(impl: str, dtype: torch.dtype, margin: float) -> None:
    """log(1 - p) and p^gamma log(1 - p) of the classes that are right to be improbable."""
    labels = torch.tensor([[0, 1] * 50])
    x = (margin * (2 * definition.one_hot(labels, 2)[0] - 1)).to(dtype).requires_grad_()
    terms = ("nll_neg", "focal_neg")
    rows = region_sums(x, labels, terms=terms, gamma=2, impl=impl).rows
    exact = x.detach().double().requires_grad_()
    other = exact.flip(1) - exact  # of two classes: 1 - p is the sigmoid of this
    t, log_q, p = definition.one_hot(labels, 2)[0], functional.logsigmoid(other), (-other).sigmoid()
    truth = torch.stack([-(1 - t) * log_q, -(1 - t) * p**2 * log_q]).sum(-1)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-11
    torch.testing.assert_close(rows, truth.view_as(rows), rtol=tolerance, atol=0)
    (grad,) = torch.autograd.grad(rows[1].sum(), x)
    (true_grad,) = torch.autograd.grad(truth[1].sum(), exact)
    assert relative_l2(grad, true_grad) < tolerance


@by_impl
@by_dtype
@pytest.mark.parametrize("p", [1e-30, 1e-8, 3e-8, 1e-6, 1e-3, 0.3, 0.5, 0.7, 1 - 1e-6])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_one_probability_is_as_in_binary_cross_entropy(
    impl: str, dtype: torch.dtype, p: float, t: float
) -> None:
    prediction, target = (
        torch.full((1, 1, 1), p, dtype=dtype),
        torch.full((1, 1, 1), t, dtype=dtype),
    )
    rows = region_sums(
        prediction, target, activation="probabilities", terms=["nll", "nll_neg"], impl=impl
    ).rows
    theirs = functional.binary_cross_entropy(prediction, target).double()
    torch.testing.assert_close(rows.sum(), theirs, rtol=1e-6, atol=0)


@by_impl
@by_dtype
def test_a_nan_has_a_nan_gradient(impl: str, dtype: torch.dtype) -> None:
    for activation in ("softmax", "sigmoid", "probabilities"):
        x = torch.full((1, 2, 3), torch.nan, dtype=dtype, requires_grad=True)
        rows = region_sums(
            x, torch.zeros(1, 3, dtype=torch.uint8), activation=activation, terms=["nll"], impl=impl
        ).rows
        (grad,) = torch.autograd.grad(rows.sum(), x)
        assert grad[:, 0].isnan().all(), activation


@by_impl
@by_dtype
def test_a_class_masked_by_an_infinite_logit(impl: str, dtype: torch.dtype) -> None:
    x, labels = saturated(dtype, 2.0)
    labels %= 3
    x[:, 3] = -torch.inf
    x.requires_grad_()
    terms = ("tp", "pred", "nll", "focal", "nll_neg", "focal_neg")
    rows = region_sums(x, labels, terms=terms, gamma=2, impl=impl).rows
    rows.sum().backward()
    without = x.detach()[:, :3].clone().requires_grad_()
    expected = region_sums(without, labels, terms=terms, gamma=2, impl="reference").rows
    expected.sum().backward()
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(rows[..., :3], expected, rtol=tolerance, atol=0)
    assert (rows[..., 3] == 0).all()
    assert x.grad is not None
    assert without.grad is not None
    torch.testing.assert_close(x.grad[:, :3], without.grad)
    assert (x.grad[:, 3] == 0).all()


@by_impl
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("right", [False, True])
def test_an_infinite_logit_costs_nothing_if_right_and_everything_if_wrong(
    impl: str, dense: bool, positive: bool, right: bool
) -> None:
    """Of each pair of logarithms, the one whose factor is 0 has no share, infinite or not."""
    x = torch.full((1, 1, 3), torch.inf if positive else -torch.inf).requires_grad_()
    label = positive == right
    target = torch.full((1, 1, 3) if dense else (1, 3), int(label), dtype=torch.float64)
    sums = region_sums(
        x,
        target if dense else target.long(),
        activation="sigmoid",
        terms=("nll", "nll_neg", "focal", "focal_neg"),
        gamma=2,
        impl=impl,
    )
    cost, none = 0.0 if right else torch.inf, 0.0
    pair = [cost, none] if label else [none, cost]
    assert sums.rows.flatten().tolist() == [*pair, *pair]
    if right:
        sums.rows.sum().backward()
        assert x.grad is not None
        assert (x.grad == 0).all()


@by_impl
@by_dtype
def test_infinite_and_nan_logits_are_as_in_torch(impl: str, dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, torch.inf, -torch.inf, torch.nan], dtype=dtype).view(1, 1, 4)
    p = region_sums(x, torch.ones(1, 4, dtype=torch.uint8), activation="sigmoid", impl=impl)
    assert p.pred.isnan().all()
    finite = region_sums(
        x[..., :3], torch.ones(1, 3, dtype=torch.uint8), activation="sigmoid", impl=impl
    )
    assert finite.pred.item() == 1.5
    two = torch.tensor([[torch.inf, 0.0], [torch.nan, 0.0], [-torch.inf, -torch.inf]], dtype=dtype)
    for pair in two:
        rows = region_sums(pair.view(1, 2, 1), torch.zeros(1, 1, dtype=torch.uint8), impl=impl)
        assert rows.pred.isnan().all()


@by_impl
@by_dtype
def test_probabilities_of_zero_and_one_are_as_in_binary_cross_entropy(
    impl: str, dtype: torch.dtype
) -> None:
    p = torch.tensor([0.0, 1e-40, 1e-30, 0.3, 1 - 1e-7, 1.0], dtype=dtype).repeat(2).view(1, 1, 12)
    t = torch.tensor([0.0] * 6 + [1.0] * 6, dtype=dtype).view(1, 1, 12)
    ours = p.clone().requires_grad_()
    rows = region_sums(
        ours, t, activation="probabilities", terms=["nll", "nll_neg"], impl=impl
    ).rows
    rows.sum().backward()
    theirs = p.clone().requires_grad_()
    loss = functional.binary_cross_entropy(theirs, t, reduction="sum")
    loss.backward()
    torch.testing.assert_close(rows.sum().to(dtype), loss.detach())
    assert ours.grad is not None
    assert theirs.grad is not None
    # Where both are 0, or both 1, torch has the quotient 0 / 1e-12; the derivative is 1.
    differs = (p - t).abs() > 1e-6
    torch.testing.assert_close(ours.grad[differs], theirs.grad[differs], rtol=1e-5, atol=0)


@by_impl
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "probabilities"])
def test_powers_have_finite_gradients_at_the_ends(impl: str, gamma: float, activation: str) -> None:
    one_hot = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).T[None]
    x = one_hot if activation == "probabilities" else 2000 * one_hot - 1000
    x = x.clone().requires_grad_()
    labels = torch.tensor([[0, 1]])
    rows = region_sums(x, labels, activation=activation, terms=TERMS, gamma=gamma, impl=impl).rows
    rows.sum().backward()
    assert rows.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@by_impl
def test_sums_in_half_precision_do_not_overflow(impl: str) -> None:
    zeros = torch.zeros(1, 2, 64, 64, 64, dtype=torch.float16)
    rows = region_sums(zeros, torch.zeros(1, 64, 64, 64, dtype=torch.uint8), impl=impl)
    assert rows.pred.tolist() == [[64**3 / 2] * 2]
