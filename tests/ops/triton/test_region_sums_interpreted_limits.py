"""The Triton kernels on the CPU: labels, memory, limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from segloss_fast.ops._triton import tiling
from segloss_fast.ops.region_sums import reference, triton_launch
from segloss_fast.ops.region_sums.options import GAMMA_TERMS, TERMS
from tests.helpers import relative_l2
from tests.ops.samples import sample
from tests.ops.triton.common import LOSS_TERMS, check, factors_of, options, ours, truth


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "probabilities"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_ignored_voxels_may_hold_anything(activation: str, bad: float) -> None:
    x, target, weight, _ = sample((2, 4, 5, 7), activation, "ignore")
    o = options(TERMS, activation, gamma=1.5, ignore_index=255)
    clean, clean_grad = ours(x.float(), target, weight, o)
    x[(target == 255)[:, None].expand_as(x)] = bad
    rows, grad = ours(x.float(), target, weight, o)
    assert torch.equal(rows, clean)
    assert torch.equal(grad, clean_grad)
    everything = torch.full_like(target, 255)
    rows, grad = ours(x.float(), everything, weight, o)
    assert not rows.any()
    assert not grad.any()


def test_an_ignore_index_that_labels_cannot_hold() -> None:
    x, target, _, _ = sample((2, 4, 5, 7), "softmax", "labels")
    for ignore_index in (-1, 256, 2**40 + 1):
        o = options(LOSS_TERMS, ignore_index=ignore_index)
        rows, _ = ours(x.float(), target.to(torch.uint8), None, o)
        assert torch.equal(rows, ours(x.float(), target, None, options(LOSS_TERMS))[0])


@pytest.mark.parametrize(
    ("dtype", "bad"),
    [
        (torch.uint8, 255),
        (torch.int8, -1),
        (torch.int16, 3),
        (torch.int32, -(2**31)),
        (torch.int64, 2**40),
        (torch.int64, 2**32 + 1),
        (torch.float16, 1.5),
        (torch.float32, 1.5),
        (torch.float32, float("inf")),
        (torch.float32, float("nan")),
        (torch.float64, -0.5),
    ],
    ids=str,
)
def test_labels_out_of_range(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, bad: float
) -> None:
    monkeypatch.setattr(tiling, "MAX_PROGRAMS", 4)
    labels = torch.zeros(2, 37, 41, dtype=dtype)
    x = torch.randn(2, 3, 37, 41)
    labels[1, 20, 7] = bad
    labels[1, 30, 0] = 4
    o = options(("tp", "target"))
    for strided in (labels, labels.transpose(1, 2).contiguous().transpose(1, 2)):
        rows, invalid = triton_launch.forward(x, strided, None, o)
        assert rows.isnan().all()
        np.testing.assert_equal(invalid.tolist(), [2, bad])
    rows, invalid = triton_launch.forward(x, labels, None, replace(o, ignore_index=4))
    np.testing.assert_equal(invalid.tolist(), [1, bad])
    rows, invalid = triton_launch.forward(x[:1], labels[:1], None, o)
    assert invalid.tolist() == [0, 0]
    assert rows.isfinite().all()


def test_empty_problems() -> None:
    o = options(LOSS_TERMS)
    for shape in ((0, 3, 4, 5), (2, 3, 0, 5)):
        x = torch.zeros(shape)
        target = torch.zeros((shape[0], *shape[2:]), dtype=torch.int64)
        rows, invalid = triton_launch.forward(x, target, None, o)
        assert rows.shape == (5, shape[0], 3)
        assert not rows.any()
        assert invalid.tolist() == [0, 0]
        assert triton_launch.backward(rows, x, target, None, o).shape == shape


def test_an_absent_class_and_terms_without_gradient() -> None:
    x, target, _, _ = sample((2, 4, 5, 7), "softmax", "labels")
    target %= 3
    o = options(("weight", "target_sq", "target"))
    rows, grad = check(x.float(), target, None, o)
    assert not rows[2, :, 3].any()
    assert not grad.any()


def test_the_order_of_terms_is_that_of_the_rows() -> None:
    x, target, weight, _ = sample((2, 3, 5, 7), "softmax", "dense")
    rows, grad = ours(x.float(), target, weight, options(TERMS))
    order = torch.randperm(len(TERMS), generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = options(tuple(TERMS[i] for i in order))
    again, _ = triton_launch.forward(x.float(), target, weight, shuffled)
    assert torch.equal(again, rows[order])
    factors = factors_of(rows)[order]
    assert torch.equal(triton_launch.backward(factors, x.float(), target, weight, shuffled), grad)


def test_incoming_gradients_of_any_strides() -> None:
    x, target, _, _ = sample((2, 3, 5, 7), "softmax", "labels")
    o = options(LOSS_TERMS)
    for factors in (torch.ones((), dtype=torch.float64), torch.randn(3, 2, 5).double().mT.mT):
        full = factors.expand(5, 2, 3) if factors.dim() == 0 else factors.permute(2, 1, 0)
        strided = triton_launch.backward(full, x.float(), target, None, o)
        dense = triton_launch.backward(full.contiguous(), x.float(), target, None, o)
        assert torch.equal(strided, dense)


@pytest.mark.parametrize("classes", [3, 40, 150])
def test_every_value_is_written_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, classes: int
) -> None:
    """Uninitialised memory is NaN, and so is what lies around the gradient; two runs agree."""
    monkeypatch.setattr(tiling, "BLOCK_TILES", 2)
    monkeypatch.setattr(tiling, "MAX_PROGRAMS", 2)
    monkeypatch.setattr(tiling, "MIN_PROGRAMS", 2)
    x, target, weight, ignore_index = sample((1, classes, 7, 41), "softmax", "ignore")
    x = x.float()
    o = options(LOSS_TERMS, ignore_index=ignore_index)
    torch.use_deterministic_algorithms(True)
    try:
        rows, grad = check(x, target, weight, o)
        again, again_grad = ours(x, target, weight, o)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(rows, again)
    assert torch.equal(grad, again_grad)
    around = torch.full((3, *x.shape), torch.nan)
    launch = triton_launch.backward_launch(around[1], factors_of(rows), x, target, weight, o)
    launch()
    assert torch.equal(around[1], grad)
    assert around[::2].isnan().all()


@pytest.mark.parametrize("what", ["input", "target", "weight"])
def test_offsets_past_2_to_the_31(what: str) -> None:
    """Strides beyond 2^31 elements, over memory of which only the used pages exist."""
    far = 2**31 + 8
    x, _, _, _ = sample((1, 2, 2, 4), "softmax", "labels")
    names = ("input", "target", "weight")
    tensors = [x.half(), torch.rand(x.shape).half(), torch.rand(x.shape).half()]
    storage = torch.empty(far + 16, dtype=torch.float16)
    strided = storage.as_strided((1, 2, 2, 4), (2 * far, far, 4, 1))
    strided.copy_(tensors[names.index(what)])
    o = options(("tp", "pred", "target"))
    rows, grad = ours(tensors[0], tensors[1], tensors[2], o)
    tensors[names.index(what)] = strided
    far_rows, far_grad = ours(tensors[0], tensors[1], tensors[2], o)
    assert torch.equal(far_rows, rows)
    assert torch.equal(far_grad, grad)


@pytest.mark.parametrize("scale", [1e-3, 30.0, 300.0, 1e4])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("classes", [4, 150])
def test_saturated_logits(scale: float, activation: str, classes: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x = scale * torch.randn((1, classes, 5, 7), generator=generator)
    target = torch.randint(0, classes, (1, 5, 7), generator=generator)
    terms = ("tp", "pred", "nll", "nll_neg", "nll_all", "focal", "focal_neg")
    o = options(terms, activation)
    rows, grad = ours(x, target, None, o)
    true_rows, true_grad = truth(x, target, None, o)
    torch.testing.assert_close(rows, true_rows, rtol=1e-5, atol=1e-5)
    assert grad.isfinite().all()
    assert relative_l2(grad, true_grad) < 1e-5


@pytest.mark.parametrize("margin", [1.0, 8.0, 12.0])
def test_sums_of_nearly_certain_voxels(margin: float) -> None:
    labels = torch.tensor([[0, 1] * 20])
    x = margin * (2 * torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).float() - 1)
    for activation in ("softmax", "sigmoid"):
        o = options(("nll_neg", "focal_neg"), activation)
        rows, grad = ours(x, labels, None, o)
        true_rows, true_grad = truth(x, labels, None, o)
        torch.testing.assert_close(rows, true_rows, rtol=1e-5, atol=0)
        assert relative_l2(grad, true_grad) < 1e-5


@pytest.mark.parametrize("classes", [4, 40, 150])
def test_a_class_masked_by_an_infinite_logit(classes: int) -> None:
    x, labels, _, _ = sample((1, classes, 3, 7), "softmax", "labels")
    x = x.float()
    labels %= classes - 1
    x[:, -1] = -torch.inf
    o = options(("tp", "pred", "nll", "focal", "nll_neg", "focal_neg"))
    rows, _ = triton_launch.forward(x, labels, None, o)
    grad = triton_launch.backward(torch.ones_like(rows), x, labels, None, o)
    without = x[:, :-1].double().requires_grad_()
    true_rows, _ = reference.forward(without, labels, None, o)
    true_rows.sum().backward()
    torch.testing.assert_close(rows[..., :-1], true_rows.detach(), rtol=2e-6, atol=0)
    assert without.grad is not None
    assert relative_l2(grad[:, :-1], without.grad) < 1e-5
    assert (rows[..., -1] == 0).all()
    assert (grad[:, -1] == 0).all()


@pytest.mark.parametrize("classes", [2, 40, 150])
def test_infinite_and_nan_logits_are_as_in_torch(classes: int) -> None:
    for value in (torch.inf, -torch.inf, torch.nan):
        x = torch.zeros(1, classes, 3)
        x[0, 1 if value != -torch.inf else slice(None), 1] = value
        labels = torch.zeros(1, 3, dtype=torch.uint8)
        rows, _ = triton_launch.forward(x, labels, None, options(("tp", "pred", "nll_neg")))
        assert rows[:2].isnan().all()
    x = torch.tensor([0.0, torch.inf, -torch.inf]).view(1, 1, 3)
    o = options(("pred",), "sigmoid")
    assert triton_launch.forward(x, torch.ones(1, 3), None, o)[0].item() == 1.5


def test_a_nan_propagates_as_in_the_reference() -> None:
    for activation in ("softmax", "sigmoid", "probabilities"):
        x = torch.full((1, 3, 4), 0.25)
        x[0, 1, 2] = torch.nan
        labels = torch.tensor([[0, 1, 2, 1]])
        # Not those where the reference has NaN times a target of 0.
        o = options(tuple(name for name in TERMS if name not in GAMMA_TERMS), activation)
        rows, grad = ours(x, labels, None, o)
        true_rows, true_grad = truth(x, labels, None, o)
        assert torch.equal(rows.isnan(), true_rows.isnan())
        assert torch.equal(grad.isnan(), true_grad.isnan())


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "probabilities"])
def test_powers_have_finite_gradients_at_the_ends(gamma: float, activation: str) -> None:
    one_hot = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).T[None]
    x = one_hot if activation == "probabilities" else 2000 * one_hot - 1000
    rows, grad = ours(x, torch.tensor([[0, 1]]), None, options(TERMS, activation, gamma=gamma))
    assert rows.isfinite().all()
    assert grad.isfinite().all()


def test_probabilities_of_zero_and_one_are_as_in_binary_cross_entropy() -> None:
    p = torch.tensor([0.0, 1e-40, 1e-30, 0.3, 1 - 1e-7, 1.0]).repeat(2).view(1, 1, 12)
    t = torch.tensor([0.0] * 6 + [1.0] * 6).view(1, 1, 12)
    o = options(("nll", "nll_neg"), "probabilities")
    rows, _ = triton_launch.forward(p, t, None, o)
    grad = triton_launch.backward(torch.ones_like(rows), p, t, None, o)
    theirs = p.clone().requires_grad_()
    loss = torch.nn.functional.binary_cross_entropy(theirs, t, reduction="sum")
    loss.backward()
    torch.testing.assert_close(rows.sum().float(), loss.detach())
    assert theirs.grad is not None
    differs = (p - t).abs() > 1e-6  # where both are equal, torch has the quotient 0 / 1e-12
    torch.testing.assert_close(grad[differs], theirs.grad[differs], rtol=1e-5, atol=0)


def test_sums_in_half_precision_do_not_overflow() -> None:
    zeros: Any = torch.zeros(1, 2, 300, 300, dtype=torch.float16)
    labels = torch.zeros(1, 300, 300, dtype=torch.uint8)
    rows, _ = triton_launch.forward(zeros, labels, None, options(("pred",)))
    assert rows.tolist() == [[[45000, 45000]]]
