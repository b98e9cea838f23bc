"""Losses by their plans: as by their formulas in PyTorch, of few operations; or no plan at all."""

from __future__ import annotations

import copy
import pickle
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import segloss_fast as sf
from segloss_fast._native import _C
from segloss_fast.losses import _planned
from segloss_fast.losses._ready import Ready
from tests.conformance import COMMON, LOSSES, LossRecord, combine, problem
from tests.helpers import (
    assert_close,
    count_operators,
    forget_plans,
    gradient,
    has_plan,
    relative_l2,
)
from tests.suite.tiers import few

pytestmark = pytest.mark.skipif(_C is None, reason="the native module is not built")
OVER_SUMS = [record for record in LOSSES if getattr(record.module, "over_sums", False)]
by_loss = pytest.mark.parametrize("record", OVER_SUMS, ids=lambda record: record.name)
KINDS = ("ignore", "dense", "class_weighted", "absent", "labels", "weighted")


@pytest.fixture(autouse=True)
def no_plans_before(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_plans(monkeypatch)


@contextmanager
def no_plans() -> Iterator[None]:
    """Let formulas run in PyTorch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_planned, "plan_of", lambda call, tensors: None)
        patch.setattr(Ready, "value", lambda ready, tensors, weights: None)
        yield


@by_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", few(KINDS, test=2))
def test_equals_the_formula(record: LossRecord, kind: str, dtype: torch.dtype) -> None:
    case = problem(kind, (4, 3, 5), dtype=dtype)
    tried = 0
    for own in record.keywords:
        for common in COMMON:
            keywords = combine(record, own, common)
            if keywords is None:
                continue
            x = (
                case.input.sigmoid()
                if keywords.get("activation") == "probabilities"
                else case.input
            )

            def loss(x: Tensor, keywords: dict[str, Any] = keywords) -> Tensor:
                return record.function(
                    x, case.target, case.voxel_weight, ignore_index=case.ignore_index, **keywords
                )

            planned = has_plan(loss(x.clone().requires_grad_()))
            assert planned == (keywords.get("reduction") != "none"), keywords
            value, grad = gradient(loss, x)
            with no_plans():
                true_value, true_grad = gradient(loss, x)
            rounding = 1e-12 if dtype == torch.float64 else 1e-6
            assert value.dtype == true_value.dtype
            assert_close(value, true_value, rounding, keywords)
            assert relative_l2(grad, true_grad) < rounding, keywords
            tried += planned
    assert tried >= 6


# Operations forward and backward together, by the plan and by the formula. On a GPU each is a
# launch, and the sums are two forward.
STEP = {
    "aten.mul.Tensor": 1,
    "aten.scalar_tensor.default": 1,
    "segloss_fast._region_sums.default": 1,
    "segloss_fast._region_sums_backward.default": 1,
}


def operations(step: Any) -> dict[str, int]:  # noqa: ANN401
    """Return the operations of a step that has been made before."""
    step()
    with count_operators() as found:
        step()
    return found


@by_loss
def test_operations_of_a_step(record: LossRecord) -> None:
    case = problem("labels", dtype=torch.float32)
    x, one, loss = case.input.requires_grad_(), torch.ones(()), record.module()

    def step() -> None:
        torch.autograd.grad(loss(x, case.target), x, one)

    assert operations(step) == STEP
    with no_plans():
        assert sum(operations(step).values()) > 10


@pytest.mark.parametrize("whole", [False, True], ids=["one loss", "a sum of losses"])
def test_operations_of_deep_supervision(whole: bool) -> None:
    loss: Any = sf.DiceLoss() + 0.5 * sf.CrossEntropyLoss() if whole else sf.DiceCELoss()
    loss = sf.DeepSupervisionLoss(loss)
    xs = [torch.randn(2, 3, side, side).requires_grad_() for side in (16, 8, 4, 2, 1)]
    target, one = torch.randint(0, 3, (2, 16, 16)), torch.ones(())

    def step() -> None:
        torch.autograd.grad(loss(xs, target), xs, one)

    assert operations(step) == STEP
    with no_plans():
        assert sum(operations(step).values()) > 60


def test_weights_may_change() -> None:
    """They are read at every call, and so are those of a sum; nothing is traced again for them."""
    case = problem("labels")
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    loss: Any = sf.DiceLoss(class_weight=weight)
    both = sf.DiceLoss() + sf.CrossEntropyLoss()
    before = loss(case.input, case.target), both(case.input, case.target)
    known = {name: len(plans) for name, plans in _planned._plans.items()}
    loss.class_weight[1] = 7.0
    both.weights = [1.0, 3.0]
    after = loss(case.input, case.target), both(case.input, case.target)
    assert {name: len(plans) for name, plans in _planned._plans.items()} == known
    losses: tuple[Any, Any] = loss, both
    for old, new, same in zip(before, after, losses, strict=True):
        assert old != new
        with no_plans():
            assert_close(new, same(case.input, case.target), 1e-14)


def test_weights_that_learn_have_a_gradient() -> None:
    case = problem("labels")
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64, requires_grad=True)
    loss = sf.functional.dice_loss(case.input, case.target, class_weight=weight)
    assert torch.autograd.grad(loss, weight)[0].abs().sum() > 0


def test_keywords_are_checked_where_a_plan_has_equal_ones() -> None:
    case = problem("labels")
    sf.functional.dice_loss(case.input, case.target, batch=True, smooth_nr=1)
    with pytest.raises(TypeError, match="batch must be True or False"):
        sf.functional.dice_loss(case.input, case.target, batch=1, smooth_nr=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="smooth_nr must be a number"):
        sf.functional.dice_loss(case.input, case.target, batch=True, smooth_nr=True)


def test_tensors_are_checked_where_there_is_a_plan() -> None:
    case, loss = problem("labels"), sf.DiceCELoss(ignore_index=255)
    loss(case.input, case.target)
    for target, error in (
        (case.target[:, :-1], "target must be class indices of shape"),
        (case.target + 3, "target must hold class indices in \\[0, 3\\)"),
        (case.target.to("meta"), "target must be on the device of input"),
        (case.input, "ignore_index goes with class indices"),
    ):
        with pytest.raises(ValueError, match=error):
            loss(case.input, target)
    with pytest.raises(ValueError, match="voxel_weight must have shape"):
        loss(case.input, case.target, torch.ones(2, 1, 3))
    with pytest.raises(TypeError, match="input must have one of the dtypes"):
        loss(case.target, case.target)


def test_the_implementation_is_chosen_at_every_call() -> None:
    case, loss = problem("labels"), sf.DiceCELoss()
    x = case.input.requires_grad_()
    assert has_plan(loss(x, case.target))
    with sf.use_impl("reference"):
        assert not has_plan(loss(x, case.target))
    assert not has_plan(sf.DiceCELoss(impl="reference")(x, case.target))
    weight = torch.rand(2, 1, *x.shape[2:], requires_grad=True)
    loss(x, case.target, weight).backward()
    assert weight.grad is not None


def test_how_it_is_called_does_not_matter() -> None:
    """Under no_grad and inference_mode, in a checkpoint, copied, pickled, in two threads' share."""
    case = problem("labels", dtype=torch.float32)
    loss = sf.DiceFocalLoss(gamma=1.7)
    copies = [copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))]
    x = case.input.requires_grad_()
    # Its first call is inside, where what autograd saves is counted.
    value = checkpoint(loss, x, case.target, use_reentrant=False)
    (grad,) = torch.autograd.grad(value, x)
    for again in (loss, *copies):
        other = again(x, case.target)
        assert torch.equal(other, value)
        assert torch.equal(torch.autograd.grad(other, x)[0], grad)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            alone = loss(x, case.target)
        assert torch.equal(alone, value)
        assert not alone.requires_grad


def test_first_called_under_inference_mode() -> None:
    case = problem("labels")
    loss = sf.TverskyLoss(alpha=0.123)
    with torch.inference_mode():
        value = loss(case.input, case.target)
    x = case.input.requires_grad_()
    again = loss(x, case.target)
    assert has_plan(again)
    again.backward()
    assert torch.equal(again, value)


def test_many_kinds_are_not_traced_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A keyword that changes with every call would cost a trace each time."""
    monkeypatch.setattr(_planned, "MOST_PLANS", 3)
    monkeypatch.setattr(_planned, "_plans", defaultdict(dict))
    case = problem("labels")
    x = case.input.requires_grad_()
    found = [has_plan(sf.DiceLoss(smooth_nr=0.1 + i)(x, case.target)) for i in range(5)]
    assert found == [True, True, True, False, False]


@pytest.mark.parametrize("counts", [False, True])
def test_a_formula_of_the_number_of_voxels_has_no_plan_for_others(counts: bool) -> None:
    def body(input: Tensor, target: Tensor, voxel_weight: None, *, _source: Any) -> Tensor:  # noqa: ANN401
        options = {"activation": "softmax", "ce_activation": None, "gamma": None}
        sums = _source(
            *(input, target),
            **{**options, "terms": ("tp",), "voxel_weight": None, "ignore_index": None},
            impl="auto",
        )
        loss: Tensor = sums.tp.sum() / (input.shape[2:].numel() if counts else 7)
        return loss

    case = problem("labels")
    call = _planned.Call(body, {}, body, ())
    assert _planned.plan_of(call, (case.input, case.target, None)) is not None
    smaller = case.input[..., :-1], case.target[..., :-1], None
    assert (_planned.plan_of(call, smaller) is None) == counts


class _Doubled(sf.DiceLoss):
    def forward(self, input: Tensor, target: Tensor, voxel_weight: Tensor | None = None) -> Tensor:
        return 2 * super().forward(input, target, voxel_weight)


def test_a_forward_of_ones_own_is_called() -> None:
    x, target = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4))
    both = _Doubled() + sf.CrossEntropyLoss()
    parts = 2 * sf.DiceLoss()(x, target) + sf.CrossEntropyLoss()(x, target)
    assert_close(both(x, target), parts, 1e-6)
