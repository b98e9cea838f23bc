"""What every loss makes of the target of one class: numbers are values, integers are labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import segloss_fast
from segloss_fast._check import FLOATING, INTEGER
from tests import oracles
from tests.conformance import LOSSES, LossRecord, problem
from tests.helpers import IMPLS, assert_close, gradient, relative_l2
from tests.records import LOVASZ_LOSSES
from tests.suite.tiers import begins_in, few

by_loss = pytest.mark.parametrize(
    "record",
    [record for record in LOSSES if record.fewest_classes == 1 and not record.hard],
    ids=lambda record: record.name,
)
by_impl = pytest.mark.parametrize("impl", IMPLS)
LOSS_FUNCTIONS = [
    *(r.function for r in LOSSES if r.fewest_classes == 1 and not r.hard),
    *(LOVASZ_LOSSES[name][1] for name in ("sigmoid", "hinge")),
]
by_function = pytest.mark.parametrize("function", LOSS_FUNCTIONS, ids=lambda f: f.__name__)
SIZE = (4, 3, 5)


def soft_case() -> tuple[Tensor, Tensor]:
    """Return logits ``[2, 1, *S]`` and a mask ``[2, *S]`` of values between 0 and 1, and of both.

    All of them are numbers of every dtype.
    """
    case = problem("dense", SIZE, classes=1)
    mask = (case.target[:, 0] * 16).round() / 16
    mask[:, 0, 0, :2] = torch.tensor([0.0, 1.0])
    return case.input, mask


def call(function: Callable[..., Tensor], impl: str, **keywords: Any) -> Callable[..., Tensor]:  # noqa: ANN401
    """Return the loss as a function of input and target."""
    if "lovasz" not in function.__name__:
        keywords["activation"] = "sigmoid"
    return lambda x, target: function(x, target, impl=impl, **keywords)


def at(loss: Callable[..., Tensor], target: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the loss of a target as a function of the input."""
    return lambda x: loss(x, target)


def defined(record: LossRecord, x: Tensor, target: Tensor, ignored: int | None) -> Any:  # noqa: ANN401
    """Return value and gradient by the definition."""
    options = {"activation": "sigmoid", "ignore_index": ignored}
    return gradient(lambda x: record.oracle(oracles.volume(x, target, None, options)), x)


@by_loss
@by_impl
def test_a_mask_of_values_is_read_as_values_in_both_shapes(record: LossRecord, impl: str) -> None:
    x, mask = soft_case()
    loss = call(record.function, impl)
    true_value, true_grad = defined(record, x, mask[:, None], None)
    for target in (mask, mask[:, None], mask.double()):
        value, grad = gradient(at(loss, target), x)
        assert_close(value, true_value, record.tolerance)
        assert relative_l2(grad, true_grad) < 10 * record.tolerance


@by_function
@by_impl
def test_both_shapes_and_every_dtype_are_the_same_numbers(
    function: Callable[..., Tensor], impl: str
) -> None:
    x, mask = soft_case()
    for target, dtypes in ((mask, FLOATING), (mask.round(), (*FLOATING, *INTEGER))):
        value = call(function, impl)(x, target[:, None].double())
        for place, dtype in enumerate(dtypes):
            shaped = target if place % 2 else target[:, None]
            other = call(function, impl)(x, shaped.to(dtype))
            torch.testing.assert_close(other, value, rtol=1e-12, atol=1e-12)


@by_function
@by_impl
@pytest.mark.parametrize("bad", few([255.0, -1.0, math.nan, 1.0625, 2.0], test=3))
def test_values_outside_of_zero_to_one_are_refused(
    function: Callable[..., Tensor], impl: str, bad: float
) -> None:
    x, mask = soft_case()
    shown = f"{bad:g}"
    mask[1, 2, 1, 4] = bad
    mask[1, 3, 2, 4] = 3  # a later one
    text = rf"values in \[0, 1\] or ignore_index, got 2 other values, the first of which is {shown}"
    for target in (mask, mask[:, None], mask.bfloat16()):
        with pytest.raises(ValueError, match=f"^target must hold {text}$"):
            call(function, impl)(x, target)
    # Ignored: not this one, but the other.
    with pytest.raises(ValueError, match=f"got 1 other values, the first of which is {shown}$"):
        call(function, impl, ignore_index=3)(x, mask)


@by_function
@by_impl
def test_masks_of_zero_and_255_are_refused(function: Callable[..., Tensor], impl: str) -> None:
    x, mask = soft_case()
    for target in (255 * mask.round(), (255 * mask.round()).to(torch.uint8)):
        for shaped in (target, target[:, None]):
            with pytest.raises(ValueError, match=r"the first of which is 255$"):
                call(function, impl)(x, shaped)


@by_function
@by_impl
@pytest.mark.parametrize("bad", few([2, -1, 2**40 + 1], test=2))
def test_other_labels_than_zero_and_one_are_refused(
    function: Callable[..., Tensor], impl: str, bad: int
) -> None:
    x, mask = soft_case()
    labels = mask.round().long()
    labels[0, 2, 1, 4] = bad
    text = (
        f"^target must hold 0, 1 or ignore_index, got 1 other values, the first of which is {bad}"
    )
    for target in (labels, labels[:, None]):
        with pytest.raises(ValueError, match=f"{text}$"):
            call(function, impl)(x, target)
        with pytest.raises(ValueError, match=f"{text}$"):
            call(function, impl, ignore_index=bad + 1)(x, target)
        assert call(function, impl, ignore_index=bad)(x, target).isfinite()


@by_loss
@by_impl
@pytest.mark.parametrize("ignored", few([255, 0, 1, -100], test=2))
def test_ignored_values_are_left_out(record: LossRecord, impl: str, ignored: int) -> None:
    """By the definition: as voxels without weight, outside of all masks."""
    x, mask = soft_case()
    left_out = torch.rand(mask.shape, generator=torch.Generator().manual_seed(3)) < 0.3
    mask[left_out] = ignored
    true_value, true_grad = defined(record, x, mask, ignored)
    x = torch.where((mask == ignored)[:, None], torch.nan, x)
    for target in (mask, mask[:, None], mask.half()):
        loss = call(record.function, impl, ignore_index=ignored)
        value, grad = gradient(at(loss, target), x)
        assert_close(value, true_value, record.tolerance)
        assert relative_l2(grad, true_grad) < 10 * record.tolerance
        assert not grad[(mask == ignored)[:, None]].any()


@by_impl
@pytest.mark.parametrize("name", ["sigmoid", "hinge"])
@pytest.mark.parametrize("method", ["sort", "histogram"])
def test_lovasz_is_that_of_the_voxels_that_are_not_ignored(
    impl: str, name: str, method: str
) -> None:
    x, mask = soft_case()
    mask[mask < 0.25] = 255
    kept = mask != 255
    loss = call(LOVASZ_LOSSES[name][1], impl, ignore_index=255, method=method, ce_weight=0.5)
    rest, few = x[:, 0][kept].view(1, 1, -1), mask[kept].view(1, -1)
    value, grad = gradient(lambda x: loss(x, few), rest)
    for target in (mask, mask[:, None]):
        found, found_grad = gradient(at(loss, target), x)
        assert_close(found, value, 1e-12)
        assert relative_l2(found_grad[:, 0][kept], grad.flatten()) < 1e-10
        assert not found_grad[:, 0][~kept].any()


@by_impl
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_cross_entropy_is_torchs_of_the_kept_voxels(impl: str, dtype: torch.dtype) -> None:
    x, mask = soft_case()
    mask[mask < 0.25] = 255
    kept = mask != 255
    for probabilities in (False, True):
        theirs: Any = torch.nn.functional.binary_cross_entropy_with_logits
        activation = "probabilities" if probabilities else "sigmoid"
        values = x.sigmoid() if probabilities else x
        if probabilities:
            theirs = torch.nn.functional.binary_cross_entropy
        loss = segloss_fast.CrossEntropyLoss(activation=activation, ignore_index=255, impl=impl)
        wanted = theirs(values[:, 0][kept], mask[kept].double())
        for target in (mask.to(dtype), mask[:, None].to(dtype)):
            assert_close(loss(values, target), wanted, 1e-12)


@by_impl
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_an_ignored_value_that_the_dtype_rounds_is_no_other(impl: str, dtype: torch.dtype) -> None:
    """Half precision has no 4097, only 4096, which is not to be ignored then."""
    x, mask = soft_case()
    target = mask.to(dtype)
    loss = segloss_fast.DiceLoss(activation="sigmoid", ignore_index=4097, impl=impl)
    plain = segloss_fast.DiceLoss(activation="sigmoid", impl=impl)
    assert torch.equal(loss(x, target), plain(x, target))
    target[0, 0, 0, 0] = 4097
    with pytest.raises(ValueError, match=r"the first of which is 4096$"):
        loss(x, target)


@by_impl
def test_deep_supervision_and_sums_of_losses_take_masks_of_values(impl: str) -> None:
    x, mask = soft_case()
    options: dict[str, Any] = {"activation": "sigmoid", "ignore_index": 255, "impl": impl}
    both = 0.5 * segloss_fast.DiceCELoss(**options) + segloss_fast.FocalLoss(**options)
    loss = segloss_fast.DeepSupervisionLoss(both)
    mask[0, 0] = 255
    xs = [x, x[:, :, ::2, ::2, ::2]]
    wanted = loss(xs, mask[:, None])
    assert_close(loss(xs, mask), wanted, 1e-14)
    mask[0, 0] = 254
    with pytest.raises(ValueError, match=r"the first of which is 254$"):
        loss(xs, mask)


FIELDS = (segloss_fast.hausdorff_field, segloss_fast.boundary_field, segloss_fast.penalty_field)


@by_impl
@pytest.mark.parametrize("compute", FIELDS, ids=lambda f: f.__name__)
def test_fields_of_one_class(impl: str, compute: Callable[..., Tensor]) -> None:
    _, mask = soft_case()
    labels = (mask > 0.5).long()
    wanted = compute(labels, 1, impl=impl)
    for target in (mask, mask.half(), mask[:, None], labels[:, None], labels.bool()):
        assert torch.equal(compute(target, 1, impl=impl), wanted)
    for target in (mask[:, None], labels[:, None]):
        assert torch.equal(compute(target, impl=impl), wanted)
    ignored = torch.rand(mask.shape, generator=torch.Generator().manual_seed(3)) < 0.2
    outside = compute(labels.masked_fill(ignored, 0), 1, impl=impl)
    for target in (mask.masked_fill(ignored, 255), labels.masked_fill(ignored, 255)):
        assert torch.equal(compute(target, 1, ignore_index=255, impl=impl), outside)
        assert torch.equal(compute(target[:, None], ignore_index=255, impl=impl), outside)
        with pytest.raises(ValueError, match=r"the first of which is 255$"):
            compute(target, 1, impl=impl)
    mask[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"the first of which is nan$"):
        compute(mask[:, None], impl=impl)


@begins_in("all")
@pytest.mark.torch_compile
def test_compiled() -> None:
    x, mask = soft_case()
    mask[0, 0] = 255
    loss = segloss_fast.DiceCELoss(activation="sigmoid", ignore_index=255)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    value, grad = gradient(lambda x: compiled(x, mask), x)
    true_value, true_grad = gradient(lambda x: loss(x, mask), x)
    assert_close(value, true_value, 1e-12)
    assert relative_l2(grad, true_grad) < 1e-12
    torch._dynamo.reset()


def test_the_gradient_of_values_is_zero_where_ignored() -> None:
    x, mask = soft_case()
    mask[0, 0] = 255
    loss = segloss_fast.CrossEntropyLoss(activation="sigmoid", ignore_index=255)
    for shape in (mask.shape, mask[:, None].shape):
        target = mask.reshape(shape).double().requires_grad_()
        loss(x, target).backward()
        assert target.grad is not None
        grad = target.grad.reshape(mask.shape)
        assert not grad[0, 0].any()
        kept = mask != 255
        torch.testing.assert_close(grad[kept], -x[:, 0][kept] / kept.sum())
