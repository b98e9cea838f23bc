"""Every documented dtype of targets, voxel weights and fields, for every loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import segloss_fast
from segloss_fast._check import FLOATING, INTEGER, REAL
from tests.conformance import CLASSES, LOSSES, LossRecord, problem
from tests.helpers import IMPLS

by_loss = pytest.mark.parametrize("record", LOSSES, ids=lambda record: record.name)
by_impl = pytest.mark.parametrize("impl", IMPLS)


@by_loss
@by_impl
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_targets_of_any_dtype(record: LossRecord, impl: str, activation: str) -> None:
    """Class indices and one-hot values are the same numbers in each dtype that holds them."""
    case = problem("labels")
    one_hot = torch.nn.functional.one_hot(case.target, CLASSES).movedim(-1, 1)
    keywords: dict[str, Any] = {"activation": activation, "impl": impl}
    for target in (case.target, one_hot):
        expected = record.function(case.input, target.double(), **keywords)
        for dtype in REAL:
            if dtype == torch.bool and target is case.target:
                continue  # holds two classes
            value = record.function(case.input, target.to(dtype), **keywords)
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


@by_loss
@by_impl
def test_voxel_weights_of_any_dtype(record: LossRecord, impl: str) -> None:
    case = problem("labels")
    generator = torch.Generator().manual_seed(1)
    weight = torch.randint(0, 2, (2, 1, *case.input.shape[2:]), generator=generator)
    expected = record.function(case.input, case.target, weight.double(), impl=impl)
    for dtype in (torch.bool, *INTEGER, *FLOATING):
        value = record.function(case.input, case.target, weight.to(dtype), impl=impl)
        torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9)


@by_impl
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("loss", "compute"),
    [
        ("DistancePenalizedCELoss", segloss_fast.penalty_field),
        ("BoundaryLoss", segloss_fast.boundary_field),
        ("HausdorffDTLoss", segloss_fast.hausdorff_field),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_half_precision_beside_the_input_is_its_float32(
    loss: str,
    compute: Any,  # noqa: ANN401
    dtype: torch.dtype,
    impl: str,
) -> None:
    """A field and voxel weights that were rounded are not rounded again by arithmetic on them."""
    case = problem("labels", dtype=torch.float32)
    field = compute(case.target, CLASSES).to(dtype)
    generator = torch.Generator().manual_seed(1)
    weight = torch.rand((2, CLASSES, *case.input.shape[2:]), generator=generator).to(dtype)
    module = getattr(segloss_fast, loss)(impl=impl)
    for weights in (None, weight, weight[:, :1]):
        wide = None if weights is None else weights.double()
        found = module(case.input, case.target, weights, target_field=field)
        true = module(case.input.double(), case.target, wide, target_field=field.double())
        torch.testing.assert_close(found.double(), true, rtol=2e-6, atol=1e-7)


@by_loss
@by_impl
def test_half_precision_weights_are_their_float32(record: LossRecord, impl: str) -> None:
    case = problem("labels", dtype=torch.float32)
    generator = torch.Generator().manual_seed(2)
    target = torch.rand(case.input.shape, generator=generator).softmax(1)
    target = (target > 0.4).float() if record.hard else target
    weight = torch.rand((2, CLASSES, *case.input.shape[2:]), generator=generator)
    for dtype in (torch.bfloat16, torch.float16):
        rounded = weight.to(dtype)
        found = record.function(case.input, target, rounded, impl=impl)
        wide = record.function(case.input, target, rounded.float(), impl=impl)
        torch.testing.assert_close(found, wide, rtol=1e-6, atol=1e-7)


@by_impl
@pytest.mark.parametrize("background", [True, False])
def test_one_hot_cross_entropy_is_that_of_class_indices(impl: str, background: bool) -> None:
    case = problem("labels")
    one_hot = torch.nn.functional.one_hot(case.target, CLASSES).movedim(-1, 1)
    loss = segloss_fast.CrossEntropyLoss(include_background=background, impl=impl)
    torch.testing.assert_close(loss(case.input, one_hot), loss(case.input, case.target))


@pytest.mark.parametrize("weights", [None, [0.2, 3.0, 1.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_of_class_probabilities_is_torchs(
    weights: list[float] | None, smoothing: float
) -> None:
    case = problem("dense")
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    for target in (case.target.double(), torch.zeros_like(case.input)):
        found = segloss_fast.CrossEntropyLoss(class_weight=weights, label_smoothing=smoothing)
        true = torch.nn.functional.cross_entropy(
            case.input, target, weight, label_smoothing=smoothing
        )
        torch.testing.assert_close(found(case.input, target), true)
