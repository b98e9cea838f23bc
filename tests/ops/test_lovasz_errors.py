"""What lovasz refuses, what counts nowhere, and what is not finite."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import segloss_fast
from segloss_fast import lovasz, lovasz_counts
from tests.helpers import gradient
from tests.ops.lovasz_samples import ACTIVATIONS, IMPLS

by_impl = pytest.mark.parametrize("impl", IMPLS)
by_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
by_method = pytest.mark.parametrize("method", ["sort", "histogram"])
LABELS = [
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
]


def inputs(classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, classes, 4, 5, generator=generator)
    return x, torch.randint(0, max(classes, 2), (2, 4, 5), generator=generator)


def _loss(call: functools.partial[segloss_fast.LovaszSums], target: Tensor, x: Tensor) -> Tensor:
    return call(x, target).loss


@pytest.mark.parametrize(
    ("keywords", "error", "text"),
    [
        ({"activation": "probabilities"}, ValueError, "activation must be one of 'softmax'"),
        ({"method": "bins"}, ValueError, "method must be one of 'auto', 'sort', 'histogram'"),
        ({"bins": 1000}, ValueError, "bins must be 9 to 16 times a power of two"),
        ({"bins": 4096.0}, TypeError, "bins must be an int or None, got float"),
        ({"per_image": 1}, TypeError, "per_image must be True or False"),
        ({"cross_entropy": "yes"}, TypeError, "cross_entropy must be True or False"),
        ({"ignore_index": 1.5}, TypeError, "ignore_index must be an int or None"),
        ({"impl": "cuda"}, ValueError, "impl must be one of"),
        ({"sync": 3}, TypeError, "sync must be True, False, 'auto', a process group"),
        ({"shards": 1}, TypeError, "shards must be True or False"),
        ({"sync": True, "per_image": True}, ValueError, "sync needs per_image=False"),
        ({"sync": True, "method": "sort"}, ValueError, "method must be 'histogram' or 'auto'"),
        ({"sync": True}, RuntimeError, "torch.distributed is not initialised"),
    ],
)
def test_bad_options(keywords: dict[str, Any], error: type[Exception], text: str) -> None:
    x, target = inputs()
    with pytest.raises(error, match=text):
        lovasz(x, target, **keywords)
    shared = {"activation", "bins", "per_image", "ignore_index", "impl"}
    if set(keywords) <= shared:
        with pytest.raises(error, match=text):
            lovasz_counts(x, target, **keywords)


def test_bad_tensors() -> None:
    x, target = inputs()
    cases: tuple[tuple[Any, Any, type[Exception], str], ...] = (
        (x[0, 0], target, ValueError, "input must be"),
        (x.long(), target, TypeError, "input must have one of the dtypes"),
        ([1.0], target, TypeError, "input must be a tensor, got list"),
        (x[:, :1], target, ValueError, "softmax of one class"),
        (x[:, :0], target, ValueError, "at least one class"),
        (x, target[:, 1:], ValueError, r"target must be class indices of shape \[2, 4, 5\]"),
        (x, target.to(torch.complex64), TypeError, "target must have one of the dtypes"),
        (x, None, TypeError, "target must be a tensor, got NoneType"),
        (x, target.to("meta"), ValueError, "target must be on the device of input"),
    )
    for bad, bad_target, error, text in cases:
        for call in (lovasz, lovasz_counts):
            with pytest.raises(error, match=text):
                call(bad, bad_target)
    with pytest.raises(
        ValueError, match=r"ignore_index goes with class indices.*\[2, 3, 4, 5\]\)$"
    ):
        lovasz(x, torch.rand_like(x), ignore_index=1)


@by_impl
@by_method
def test_labels_out_of_range(impl: str, method: str) -> None:
    x, target = inputs()
    target[1, 2, 3] = 7
    target[1, 3, 0] = -2
    with pytest.raises(ValueError, match=r"\[0, 3\).*got 2 other values, the first of which is 7"):
        lovasz(x, target, method=method, impl=impl)
    with pytest.raises(ValueError, match="got 1 other values, the first of which is -2"):
        lovasz(x, target, method=method, impl=impl, ignore_index=7)
    with pytest.raises(ValueError, match="got 2 other values"):
        lovasz_counts(x, target, impl=impl)


def test_what_is_not_there_says_so() -> None:
    x, target = inputs()
    for b in segloss_fast.backends():
        if (b.primitive, b.device, b.available) == ("lovasz", "cpu", False):
            with pytest.raises(RuntimeError, match=f"impl='{b.impl}' is not available here"):
                lovasz(x, target, impl=b.impl)


@by_impl
@by_method
@by_activation
@pytest.mark.parametrize("dtype", LABELS, ids=str)
def test_every_dtype_of_labels(impl: str, method: str, activation: str, dtype: torch.dtype) -> None:
    x, target = inputs()
    target[0, :2] = 100
    call = functools.partial(
        lovasz, activation=activation, method=method, ignore_index=100, impl=impl
    )
    value, grad = gradient(lambda x: call(x, target).loss, x)
    for labels in (target.to(dtype), target.to(dtype)[:, None]):
        other, other_grad = gradient(functools.partial(_loss, call, labels), x)
        assert torch.equal(other, value)
        assert torch.equal(other_grad, grad)


@by_impl
@by_method
@by_activation
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16, torch.float32], ids=str)
def test_dense_targets_are_foreground_above_one_half(
    impl: str, method: str, activation: str, dtype: torch.dtype
) -> None:
    x, _ = inputs()
    soft = torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    soft[0, 0, 0, 0] = 0.5
    target = soft if dtype == torch.float32 else (soft > 0.5).to(dtype)
    call = functools.partial(lovasz, activation=activation, method=method, impl=impl)
    sums = call(x, target)
    assert torch.equal(sums.target[0], (soft > 0.5).transpose(0, 1).flatten(1).sum(1).double())
    assert torch.equal(sums.loss, call(x, (soft > 0.5).double()).loss)


@by_impl
@by_method
@by_activation
def test_labels_that_cannot_hold_the_ignored_one(impl: str, method: str, activation: str) -> None:
    x, target = inputs()
    call = functools.partial(lovasz, activation=activation, method=method, impl=impl)
    value = call(x, target.to(torch.uint8), ignore_index=-256)  # 0, wrapped around
    assert torch.equal(value.loss, call(x, target).loss)
    assert (value.weight == 40).all()


@by_impl
@by_method
@by_activation
@pytest.mark.parametrize("per_image", [False, True])
def test_everything_ignored(impl: str, method: str, activation: str, per_image: bool) -> None:
    x, target = inputs()
    x[0, 1] = torch.nan
    target[:] = 9
    sums = lovasz(
        x.requires_grad_(),
        target,
        activation=activation,
        method=method,
        per_image=per_image,
        ignore_index=9,
        cross_entropy=True,
        impl=impl,
    )
    assert sums.cross_entropy is not None
    assert (sums.loss == 0).all()
    assert (sums.cross_entropy == 0).all()
    assert (sums.weight == 0).all()
    assert not sums.present.any()
    (sums.loss + sums.cross_entropy).sum().backward()
    assert x.grad is not None
    assert (x.grad == 0).all()


@by_impl
@by_method
@pytest.mark.parametrize("activation", ["sigmoid", "hinge"])
def test_without_foreground_the_largest_error_alone_counts(
    impl: str, method: str, activation: str
) -> None:
    x = torch.tensor([0.5, -3.0, 2.0, 1.0], dtype=torch.float64).view(1, 1, 4)
    target = torch.zeros(1, 4, dtype=torch.int64)
    value, grad = gradient(
        lambda x: lovasz(x, target, activation=activation, method=method, impl=impl).loss, x
    )
    p = torch.sigmoid(torch.tensor(2.0, dtype=torch.float64))
    expected = p if activation == "sigmoid" else 3.0
    torch.testing.assert_close(value.item(), float(expected), rtol=1e-5, atol=0)
    slope = float(p * (1 - p)) if activation == "sigmoid" else 1.0
    torch.testing.assert_close(grad[0, 0], torch.tensor([0, 0, slope, 0]).double())
    if activation == "hinge":  # margins kept by all: no error at all
        value, grad = gradient(
            lambda x: lovasz(x, target, activation="hinge", method=method, impl=impl).loss,
            torch.full_like(x, -1.5),
        )
        assert value == 0
        assert (grad == 0).all()


@by_impl
@by_method
@by_activation
def test_nan_counts_where_it_is_not_ignored(impl: str, method: str, activation: str) -> None:
    x, target = inputs()
    x[1, 1, 2, 3] = torch.nan
    call = functools.partial(
        lovasz, activation=activation, method=method, per_image=True, impl=impl
    )
    sums = call(x, target, cross_entropy=True)
    assert sums.cross_entropy is not None
    assert sums.loss[0].isfinite().all()
    touched = [0, 1, 2] if activation == "softmax" else [1]
    assert sums.loss[1].isnan().tolist() == [c in touched for c in range(3)]
    assert sums.cross_entropy[1, 1 if activation != "softmax" else int(target[1, 2, 3])].isnan()
    _, grad = gradient(lambda x: call(x, target).loss, x)
    assert grad[0].isfinite().all()
    assert grad[1, 1].isnan().any()
    target[1, 2, 3] = 255
    value, grad = gradient(lambda x: call(x, target, ignore_index=255).loss, x)
    assert value.isfinite().all()
    assert grad.isfinite().all()
    assert (grad[1, :, 2, 3] == 0).all()
    clean = x.nan_to_num(3.0)
    assert torch.equal(call(clean, target, ignore_index=255).loss, value)


@by_impl
@by_method
def test_infinite_logits(impl: str, method: str) -> None:
    """As torch's sigmoid and softmax: certain, not NaN, except where infinities compete."""
    x, target = inputs()
    x[0, 1, 0, 0] = -torch.inf
    x[0, 2, 1, 1] = -torch.inf
    for activation in ("softmax", "sigmoid"):
        call = functools.partial(lovasz, activation=activation, method=method, impl=impl)
        value, grad = gradient(functools.partial(_loss, call, target), x)
        assert value.isfinite().all()
        assert grad.isfinite().all()
    x[0, 1, 0, 0] = torch.inf
    assert lovasz(x, target, activation="sigmoid", method=method, impl=impl).loss.isfinite().all()
    assert lovasz(x, target, method=method, impl=impl).loss.isnan().all()  # inf - inf


@by_impl
def test_hinge_errors_too_large_for_the_bins_are_not_hidden(impl: str) -> None:
    x, target = inputs()
    x[0, 0, 0, 0] = 1e5
    target[0, 0, 0] = 1
    loss = lovasz(x, target, activation="hinge", method="histogram", impl=impl).loss
    assert loss.isnan().tolist() == [[True, False, False]]
    assert lovasz(x, target, activation="hinge", method="sort", impl=impl).loss.isfinite().all()


@by_impl
@by_method
@by_activation
@pytest.mark.parametrize("per_image", [False, True])
def test_no_voxels_and_no_items(impl: str, method: str, activation: str, per_image: bool) -> None:
    for shape in [(0, 3, 4), (2, 3, 0), (2, 3, 4, 0, 5)]:
        x = torch.randn(shape, requires_grad=True)
        labels = torch.zeros((shape[0], *shape[2:]), dtype=torch.int64)
        sums = lovasz(
            x, labels, activation=activation, method=method, per_image=per_image, impl=impl
        )
        assert sums.loss.shape == (shape[0] if per_image else 1, 3)
        assert (sums.loss == 0).all()
        assert (sums.weight == 0).all()
        sums.loss.sum().backward()
        assert x.grad is not None
        assert x.grad.shape == shape
