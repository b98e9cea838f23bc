"""The edge rules that every loss of the conformance table keeps: nothing counts, NaN, certainty."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conformance import CLASSES, LOSSES, LossRecord, problem
from tests.helpers import IMPLS
from tests.suite.tiers import few

by_loss = pytest.mark.parametrize("record", LOSSES, ids=lambda record: record.name)
by_impl = pytest.mark.parametrize("impl", IMPLS)


@by_loss
@by_impl
def test_all_ignored_is_zero_with_zero_gradient(record: LossRecord, impl: str) -> None:
    case = problem("labels")
    for smooth in ({}, {"smooth_nr": 0.0}, {"smooth_nr": 0.0, "smooth_dr": 0.0}):
        keywords = {"ignore_index": 7, **record.accepts(smooth)}
        for reduction in ("mean", "sum", "none"):
            x = torch.full_like(case.input, torch.nan).requires_grad_()
            target = torch.full_like(case.target, 7)
            loss = record.function(x, target, reduction=reduction, impl=impl, **keywords)
            loss.sum().backward()
            assert (loss == 0).all(), (keywords, reduction)
            assert x.grad is not None
            assert (x.grad == 0).all(), (keywords, reduction)


@by_loss
@by_impl
@pytest.mark.parametrize("shape", [(0, CLASSES, 4, 5), (2, CLASSES, 0, 5)], ids=str)
@pytest.mark.parametrize("batch", [False, True])
def test_nothing_is_zero(
    record: LossRecord, impl: str, shape: tuple[int, ...], batch: bool
) -> None:
    target = torch.zeros((shape[0], *shape[2:]), dtype=torch.int64)
    for smooth in (
        {},
        {"smooth_nr": 0.0},
        {"smooth_nr": 1.0},
        {"smooth_nr": 0.0, "smooth_dr": 0.0},
    ):
        x = torch.randn(shape, requires_grad=True)
        keywords = record.accepts(smooth)
        loss = record.function(x, target, batch=batch, impl=impl, **keywords)
        loss.backward()
        assert loss.item() == 0, smooth
        assert x.grad is not None
        assert x.grad.shape == x.shape


@by_loss
def test_one_class_cannot_go_without_its_background(record: LossRecord) -> None:
    with pytest.raises(ValueError, match="include_background=False leaves no class"):
        record.function(
            torch.randn(1, 1, 4), torch.ones(1, 4), activation="sigmoid", include_background=False
        )


@by_loss
def test_a_softmax_of_one_class_is_refused(record: LossRecord) -> None:
    if record.name in ("LovaszHingeLoss", "LovaszSigmoidLoss"):
        pytest.skip("no softmax")
    with pytest.raises(ValueError, match="input must have at least two"):
        record.function(torch.randn(2, 1, 4, 5), torch.ones(2, 4, 5))


@by_loss
def test_bad_tensors_are_refused(record: LossRecord) -> None:
    labels = torch.zeros(2, 4, dtype=torch.int64)
    for x, error in [([1.0], TypeError), (torch.randn(3), ValueError), (labels[None], TypeError)]:
        with pytest.raises(error, match="input must"):
            record.function(x, labels)
    with pytest.raises(TypeError, match="target must be a tensor"):
        record.function(torch.randn(2, 3, 4), None)
    with pytest.raises(ValueError, match="target must be class indices"):
        record.function(torch.randn(2, 3, 4), labels[:, :2])
    with pytest.raises(TypeError, match="voxel_weight must be a tensor, got list"):
        record.function(torch.randn(2, 3, 4), labels, [1.0])


@by_loss
def test_weights_keep_their_precision(record: LossRecord) -> None:
    module = record.module(class_weight=[0.1, 0.2, 0.7]).half()
    assert dict(module.named_buffers())["class_weight"].tolist() == [0.1, 0.2, 0.7]


@by_loss
@by_impl
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "probabilities"])
@pytest.mark.parametrize("smooth", [1e-5, 0.0])
def test_perfect_prediction_has_a_finite_gradient(
    record: LossRecord, impl: str, activation: str, smooth: float
) -> None:
    case = problem("absent")
    one_hot = torch.nn.functional.one_hot(case.target, CLASSES).movedim(-1, 1).double()
    x = one_hot if activation == "probabilities" else 1000 * (2 * one_hot - 1)
    keywords: dict[str, Any] = {"activation": activation, "impl": impl}
    keywords |= record.accepts({"smooth_nr": smooth, "smooth_dr": smooth})
    x = x.requires_grad_()
    loss = record.function(x, case.target, **keywords)
    loss.backward()
    assert abs(loss.item()) < 1e-9 or not record.zero_if_perfect
    assert x.grad is not None
    assert x.grad.isfinite().all()


@by_loss
@by_impl
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_nan_that_counts_shows_and_one_that_is_ignored_does_not(
    record: LossRecord, impl: str, activation: str
) -> None:
    case = problem("ignore")
    voxel = (case.target == 255).nonzero()[0].tolist()
    keywords: dict[str, Any] = {"activation": activation, "ignore_index": 255, "impl": impl}
    clean = record.function(case.input, case.target, **keywords)
    x = case.input.clone()
    x[voxel[0], :, voxel[1], voxel[2], voxel[3]] = torch.nan
    x.requires_grad_()
    ignored = record.function(x, case.target, **keywords)
    ignored.backward()
    assert ignored.item() == clean.item()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    for absent in ("keep", "skip", "zero") if record.region else (None,):
        option = {} if absent is None else {"absent": absent}
        target = torch.zeros_like(case.target)
        x = case.input.clone()
        x[0, 2, 0, 0, 0] = torch.nan
        assert record.function(x, target, **keywords, **option).isnan()


@by_loss
@by_impl
@pytest.mark.parametrize("bad", few([torch.nan, torch.inf], test=2))
def test_weights_of_ignored_voxels_do_not_count(record: LossRecord, impl: str, bad: float) -> None:
    case = problem("ignore", (4, 5))
    ignored = (case.target == 255)[:, None]
    for activation in ("softmax", "sigmoid"):
        for channels in (1, CLASSES):
            generator = torch.Generator().manual_seed(1)
            weight = torch.rand((2, channels, 4, 5), generator=generator) + 0.1
            found = []
            for w in (weight, weight.masked_fill(ignored, bad)):
                w.requires_grad_(impl == "reference")
                x = case.input.clone().requires_grad_()
                loss = record.function(
                    x, case.target, w, ignore_index=255, activation=activation, impl=impl
                )
                loss.backward()
                assert loss.isfinite()
                found.append((loss.detach(), x.grad, w.grad))
            for without, other in zip(*found, strict=True):
                torch.testing.assert_close(other, without, rtol=1e-10, atol=1e-12)
