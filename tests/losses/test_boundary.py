"""What the boundary losses alone have: spacing per axis, fields passed in, errors, memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import segloss_fast
from segloss_fast import functional
from tests import oracles, oracles_boundary
from tests.conformance import problem
from tests.helpers import IMPLS, gradient, peak_allocation, relative_l2

by_impl = pytest.mark.parametrize("impl", IMPLS)
SPACING = (2.5, 0.7, 1.0)
WITH_SPACING: dict[Any, Any] = {
    functional.hausdorff_dt_loss: oracles_boundary.hausdorff_dt,
    functional.log_hausdorff_dt_loss: oracles_boundary.log_hausdorff_dt,
    functional.boundary_loss: oracles_boundary.boundary,
    functional.distance_penalized_ce_loss: oracles_boundary.distance_penalized_ce,
    functional.shape_aware_loss: oracles_boundary.shape_aware,
}
FIELDS: dict[Any, Any] = {
    functional.hausdorff_dt_loss: segloss_fast.hausdorff_field,
    functional.log_hausdorff_dt_loss: segloss_fast.hausdorff_field,
    functional.boundary_loss: segloss_fast.boundary_field,
    functional.distance_penalized_ce_loss: segloss_fast.penalty_field,
}


@by_impl
@pytest.mark.parametrize("loss", WITH_SPACING)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_spacing_per_axis(impl: str, loss: Any, activation: str) -> None:  # noqa: ANN401
    case = problem("ignore")
    options = {"spacing": SPACING, "activation": activation, "ignore_index": 255}

    def definition(x: Tensor) -> Tensor:
        result: Tensor = WITH_SPACING[loss](oracles.volume(x, case.target, None, options))
        return result

    value, grad = gradient(lambda x: loss(x, case.target, impl=impl, **options), case.input)
    true_value, true_grad = gradient(definition, case.input)
    assert relative_l2(value, true_value) < 1e-6
    assert relative_l2(grad, true_grad) < 1e-6


def test_spacing_may_come_from_numpy() -> None:
    case = problem("labels")
    value = functional.boundary_loss(case.input, case.target, spacing=SPACING)
    header = np.array(SPACING, dtype=np.float32).astype(np.float64).round(3)
    assert functional.boundary_loss(case.input, case.target, spacing=header) == value
    assert functional.boundary_loss(case.input, case.target, spacing=list(SPACING)) == value


@by_impl
@pytest.mark.parametrize("loss", FIELDS)
@pytest.mark.parametrize("kind", ["labels", "dense"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_target_field_gives_the_same(impl: str, loss: Any, kind: str, activation: str) -> None:  # noqa: ANN401
    case = problem(kind, dtype=torch.float32)
    options: dict[str, Any] = {"spacing": SPACING, "activation": activation, "impl": impl}
    compute: Any = FIELDS[loss]
    own = {"per_class": activation == "sigmoid"} if compute is segloss_fast.penalty_field else {}
    field = compute(case.target, None if kind == "dense" else 3, spacing=SPACING, impl=impl, **own)
    before = field.clone()
    value, grad = gradient(lambda x: loss(x, case.target, **options), case.input)
    other, other_grad = gradient(
        lambda x: loss(x, case.target, target_field=field, **options), case.input
    )
    assert relative_l2(other, value) < 1e-6
    assert relative_l2(other_grad, grad) < 1e-6
    assert torch.equal(field, before)
    half, _ = gradient(
        lambda x: loss(x, case.target, target_field=field.half(), **options), case.input
    )
    assert relative_l2(half, value) < 2e-3


@by_impl
@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_the_exponent_is_that_of_a_given_field_too(impl: str, alpha: float) -> None:
    case = problem("labels")
    field = segloss_fast.hausdorff_field(case.target, 3, spacing=SPACING, impl=impl)
    options: dict[str, Any] = {"alpha": alpha, "spacing": SPACING, "impl": impl}
    for loss in (functional.hausdorff_dt_loss, functional.log_hausdorff_dt_loss):
        value = loss(case.input, case.target, **options)
        assert (
            relative_l2(loss(case.input, case.target, target_field=field, **options), value) < 1e-6
        )


def test_target_field_reaches_the_module() -> None:
    case = problem("labels", dtype=torch.float32)
    field = torch.full(case.input.shape, 2.0)
    value = segloss_fast.BoundaryLoss()(case.input, case.target, target_field=field)
    assert abs(value.item() - 2 / 3) < 1e-6  # the probabilities add up to 1


@pytest.mark.parametrize("compute", dict.fromkeys(FIELDS.values()), ids=lambda f: f.__name__)
def test_fields_of_one_sample_equal_those_of_the_batch(compute: Any) -> None:  # noqa: ANN401
    labels = problem("labels").target
    batch = compute(labels, 3)
    for item, field in zip(labels, batch, strict=True):
        assert torch.equal(compute(item[None], 3)[0], field)
        assert torch.equal(compute(item[None, None].to(torch.uint8), 3)[0], field)
        assert torch.equal(compute(item, 3, batched=False), field)
        assert torch.equal(compute(item[None], 3, batched=False), field)
    values = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1)
    dense = compute(values)
    assert torch.equal(compute(values[0], batched=False), dense[0])
    with pytest.raises(TypeError, match="batched must be"):
        compute(labels, 3, batched=0)


def test_background_left_out_of_a_field_is_zero() -> None:
    labels = problem("labels").target
    for compute in (segloss_fast.hausdorff_field, segloss_fast.boundary_field):
        field = compute(labels, 3, include_background=False)
        assert (field[:, 0] == 0).all()
        assert torch.equal(field[:, 1:], compute(labels, 3)[:, 1:])


@pytest.mark.parametrize(
    "compute",
    [segloss_fast.hausdorff_field, segloss_fast.boundary_field, segloss_fast.penalty_field],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_labels_out_of_range_are_refused(compute: Any, dtype: torch.dtype) -> None:  # noqa: ANN401
    labels = torch.tensor([[0, 1, 2, 7, 1, 9]]).to(dtype)
    with pytest.raises(ValueError, match=r"in \[0, 3\).*got 2 other values, the first .* is 7"):
        compute(labels, 3)
    with pytest.raises(ValueError, match=r"got 1 other values, the first of which is 9"):
        compute(labels, 3, ignore_index=7)
    compute(labels, 10)
    compute(labels, 300)
    with pytest.raises(ValueError, match=r"got 3 other values, the first of which is 2$"):
        compute(labels, 1)
    if dtype == torch.float32:
        with pytest.raises(ValueError, match=r"got 1 other values, the first of which is 0.5"):
            compute(torch.tensor([[0.0, 0.5]]), 3)


def test_bad_fields_and_spacings_are_refused() -> None:
    x, labels = torch.randn(2, 3, 4, 5), torch.zeros(2, 4, 5, dtype=torch.int64)
    for loss in FIELDS:
        with pytest.raises(ValueError, match=r"target_field must have shape .*\[2, 3, 4, 5\], got"):
            loss(x, labels, target_field=torch.zeros(2, 2, 4, 5))
        with pytest.raises(TypeError, match="target_field must have one of the dtypes float16"):
            loss(x, labels, target_field=labels)
        with pytest.raises(ValueError, match="2 spatial axes, got 3 numbers"):
            loss(x, labels, spacing=(1, 1, 1))
    with pytest.raises(ValueError, match="classes must be at least 1, got 0"):
        segloss_fast.hausdorff_field(labels, 0)
    with pytest.raises(TypeError, match="classes must be an int or None, got float"):
        segloss_fast.hausdorff_field(labels, 2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"target must be values \[B, C, \*S\]"):
        segloss_fast.boundary_field(labels[0])
    with pytest.raises(ValueError, match=r"target must be class indices"):
        segloss_fast.boundary_field(labels[0, 0], 3)
    with pytest.raises(ValueError, match="ignore_index goes with class indices"):
        segloss_fast.boundary_field(x, ignore_index=1)
    with pytest.raises(TypeError, match="target must be a tensor"):
        segloss_fast.penalty_field([1], 2)  # type: ignore[arg-type]


def test_a_class_without_boundary_weighs_nothing() -> None:
    x = torch.randn(1, 2, 6, 6)
    full = torch.ones(1, 6, 6)
    sure = torch.stack([-full, full], 1) * 50
    for loss in (functional.hausdorff_dt_loss, functional.boundary_loss):
        assert loss(sure, full) == 0
    assert functional.boundary_loss(x, full) == 0
    plain = functional.cross_entropy_loss(x, full)
    assert torch.allclose(functional.distance_penalized_ce_loss(x, full), plain)
    assert torch.allclose(functional.shape_aware_loss(x, full), plain)


@pytest.mark.skipif("native" not in IMPLS, reason="the reference makes maps")
def test_memory_is_the_weight_and_half_a_field_more() -> None:
    x = torch.randn(1, 2, 32, 64, 64)
    labels = torch.randint(0, 2, (1, 32, 64, 64))
    field = 4 * x.numel()
    # The weight, to which the target's distances are added as they are found; the byte masks of
    # prediction and target, or one and the runs in it; what threads work in.
    peak = peak_allocation(lambda: functional.hausdorff_dt_loss(x, labels, impl="native"))
    assert peak < 1.5 * field + 2**18
