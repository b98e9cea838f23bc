"""Sums of losses: values, gradients, one pass, maps, deep supervision."""

from __future__ import annotations

import copy
import operator
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import segloss_fast as sf
from tests.conformance import LOSSES, problem
from tests.helpers import IMPLS, assert_close, count_formulas, relative_l2

by_impl = pytest.mark.parametrize("impl", IMPLS)
MIXES: dict[str, list[Any]] = {
    "plain": [(0.5, sf.DiceLoss, {}), (2.0, sf.CrossEntropyLoss, {})],
    "activations": [
        (1.0, sf.DiceLoss, {"activation": "softmax"}),
        (0.3, sf.CrossEntropyLoss, {"activation": "sigmoid"}),
        (-0.2, sf.TverskyLoss, {"activation": "sigmoid"}),
    ],
    "gammas": [
        (1.0, sf.DiceFocalLoss, {"gamma": 1.5}),
        (0.5, sf.FocalLoss, {"gamma": 1.5}),
        (0.25, sf.FocalLoss, {"gamma": 3.0}),
    ],
    "fields": [
        (0.5, sf.DiceCELoss, {"class_weight": [1.0, 2.0, 0.5]}),
        (1.0, sf.HausdorffDTLoss, {"include_background": False}),
        (1.0, sf.TopKLoss, {}),
    ],
    "probabilities": [
        (1.0, sf.DiceLoss, {"activation": "probabilities"}),
        (0.5, sf.CrossEntropyLoss, {"activation": "probabilities"}),
        (0.5, sf.MCCLoss, {"activation": "probabilities", "batch": True}),
    ],
}


def build(mix: str, **common: Any) -> tuple[Any, list[tuple[float, Any]]]:  # noqa: ANN401
    """Return the sum, and its parts with their weights."""
    parts = [(weight, loss(**options, **common)) for weight, loss, options in MIXES[mix]]
    whole: Any = sum(weight * loss for weight, loss in parts)
    return whole, parts


def differentiate(loss: Any, x: Tensor, *others: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    x = x.detach().requires_grad_()
    value = loss(x, *others)
    (grad,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), grad


@by_impl
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("weighted", [False, True])
def test_is_the_weighted_sum(mix: str, impl: str, weighted: bool) -> None:
    whole, parts = build(mix, impl=impl, ignore_index=255)
    case = problem("ignore")
    x = case.input.sigmoid() if mix == "probabilities" else case.input
    others = [case.target] + ([torch.rand(2, 1, *x.shape[2:])] if weighted else [])
    value, grad = differentiate(whole, x, *others)
    true_value, true_grad = differentiate(
        lambda x, *others: torch.stack([w * loss(x, *others) for w, loss in parts]).sum(),
        x,
        *others,
    )
    assert_close(value, true_value, 1e-6)
    assert relative_l2(grad, true_grad) < 1e-6


@pytest.mark.parametrize(
    ("mix", "passes"), [("plain", 1), ("activations", 2), ("gammas", 2), ("probabilities", 1)]
)
def test_losses_over_sums_share_a_pass(
    monkeypatch: pytest.MonkeyPatch, mix: str, passes: int
) -> None:
    calls: list[Any] = []

    def counted(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        calls.append(options["terms"])
        return sf.region_sums(*arguments, **options)

    monkeypatch.setattr("segloss_fast.losses.weighted_sum.region_sums", counted)
    count_formulas(monkeypatch, calls)
    whole, _ = build(mix)
    case = problem("labels")
    whole(case.input.sigmoid() if mix == "probabilities" else case.input, case.target)
    assert len(calls) == passes, calls


def test_the_flag_of_losses_over_sums_is_right() -> None:
    """Of the others, some ask for sums of their own maps, or compute fields before they ask."""
    for record in LOSSES:
        module: Any = record.module
        plain = record.primitives == ("region_sums",) and record.passes == 1
        assert not module.over_sums or plain, record.name


@by_impl
@pytest.mark.parametrize("mix", ["plain", "gammas", "fields"])
def test_deep_supervision(mix: str, impl: str) -> None:
    whole, parts = build(mix, impl=impl)
    generator = torch.Generator().manual_seed(0)
    xs = [torch.randn(2, 3, side, side, generator=generator) for side in (12, 6, 3)]
    target = torch.randint(0, 3, (2, 12, 12), generator=generator)
    value = sf.DeepSupervisionLoss(whole, "nnunet")(xs, target)
    single = [weight * sf.DeepSupervisionLoss(loss, "nnunet")(xs, target) for weight, loss in parts]
    assert_close(value, torch.stack(single).sum(), 1e-6)


def test_levels_of_a_sum_come_from_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def counted(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        calls.append(options["terms"])
        return sf.region_sums_multi(*arguments, **options)

    monkeypatch.setattr("segloss_fast.losses.deep_supervision.region_sums_multi", counted)
    count_formulas(monkeypatch, calls)
    xs = [torch.randn(1, 3, side, side) for side in (8, 4)]
    loss = sf.DiceLoss() + sf.CrossEntropyLoss()
    sf.DeepSupervisionLoss(loss)(xs, torch.zeros(1, 8, 8, dtype=torch.int64))
    assert len(calls) == 1, calls


def test_maps_go_to_those_that_take_them() -> None:
    case = problem("labels")
    field = sf.hausdorff_field(case.target, 3)
    loss = 0.5 * sf.DiceLoss() + sf.HausdorffDTLoss()
    assert_close(
        loss(case.input, case.target, target_field=2 * field),
        0.5 * sf.DiceLoss()(case.input, case.target)
        + sf.HausdorffDTLoss()(case.input, case.target, target_field=2 * field),
        1e-6,
    )
    both = sf.HausdorffDTLoss() + sf.LogHausdorffDTLoss()
    both(case.input, case.target, target_field=field)
    with pytest.raises(ValueError, match="different kinds of target_field: call them one by one"):
        (both + sf.BoundaryLoss())(case.input, case.target, target_field=field)
    with pytest.raises(TypeError, match="none of DiceLoss takes 'target_field'"):
        (1.0 * sf.DiceLoss())(case.input, case.target, target_field=field)


def test_is_a_module_whose_weights_can_be_set() -> None:
    loss = 0.5 * sf.DiceLoss() + 2 * (sf.CrossEntropyLoss(class_weight=[1, 2, 3]) + sf.MCCLoss())
    assert loss.weights == [0.5, 2.0, 2.0]
    assert [type(part).__name__ for part in loss.losses] == [
        "DiceLoss",
        "CrossEntropyLoss",
        "MCCLoss",
    ]
    assert not loss.state_dict()
    case = problem("labels")
    before = loss(case.input, case.target)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(twin(case.input, case.target), before)
    loss.weights = [0.0, 1.0, 0.0]
    assert_close(loss(case.input, case.target), loss.losses[1](case.input, case.target), 1e-12)
    assert "weights=[0.0, 1.0, 0.0]" in repr(loss)
    wrong: list[Any] = [[1.0], [1.0, "a", 2.0], [1.0, float("nan"), 2.0]]
    for weights in wrong:
        with pytest.raises((ValueError, TypeError), match="weights"):
            loss.weights = weights
    with pytest.raises(TypeError, match="weights must hold a number per loss, got str"):
        loss.weights = "123"  # type: ignore[assignment]


def test_what_a_user_wrote_over_forward_counts() -> None:
    class Half(sf.DiceLoss):
        def forward(self, input: Tensor, target: Tensor, voxel_weight: Any = None) -> Tensor:  # noqa: ANN401
            return super().forward(input, target, voxel_weight) / 2

    case = problem("labels")
    called = []
    hooked = sf.HausdorffDTLoss()
    hooked.register_forward_hook(lambda *given: called.append(given))
    loss = Half() + sf.CrossEntropyLoss() + hooked
    parts = [part(case.input, case.target) for part in loss.losses]
    assert_close(parts[0], sf.DiceLoss()(case.input, case.target) / 2, 1e-12)
    called.clear()
    assert_close(loss(case.input, case.target), torch.stack(parts).sum(), 1e-7)
    assert len(called) == 1


def test_what_cannot_be_added() -> None:
    dice: Any = sf.DiceLoss()
    for operate, other in ((operator.add, 1), (operator.mul, dice), (operator.mul, "2")):
        with pytest.raises(TypeError):
            operate(dice, other)
        with pytest.raises(TypeError):
            operate(other, dice)
    with pytest.raises(TypeError, match="loss must be a loss of segloss_fast, got Linear"):
        sf.WeightedSum([torch.nn.Linear(1, 1)])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="losses must hold at least one loss"):
        sf.WeightedSum([])
    with pytest.raises(ValueError, match="weights must hold 1 numbers, one per loss, got 2"):
        sf.WeightedSum([dice], [1.0, 2.0])
    with pytest.raises(ValueError, match="weights must be a finite number"):
        float("inf") * dice
    x, target = torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="same reduction and rows"):
        (dice + sf.DiceLoss(reduction="none"))(x, target)
    target[0, 0, 0] = 9
    with pytest.raises(ValueError, match="got 1 other values"):
        (dice + sf.CrossEntropyLoss())(x, target)


@pytest.mark.torch_compile
def test_compiles_into_one_graph() -> None:
    loss = 0.5 * sf.DiceLoss() + sf.CrossEntropyLoss()
    x, target = torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    assert_close(compiled(x, target), loss(x, target), 1e-6)
