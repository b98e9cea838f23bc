"""MONAI's focal and compound losses: known traps, wrong calls, one pass, torch.compile."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import monai.losses
import monai.losses.unified_focal_loss as unified
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from segloss_fast import region_sums
from segloss_fast.compat import _volumes
from segloss_fast.compat.monai.compound import DiceCELoss
from segloss_fast.compat.monai.compound_focal import DiceFocalLoss, GeneralizedDiceFocalLoss
from segloss_fast.compat.monai.dice import DiceLoss
from segloss_fast.compat.monai.focal import FocalLoss
from segloss_fast.compat.monai.unified_focal import (
    AsymmetricFocalLoss,
    AsymmetricFocalTverskyLoss,
    AsymmetricUnifiedFocalLoss,
)

pytestmark = pytest.mark.peers

HEAD: dict[str, Any] = {"to_onehot_y": True, "softmax": True}
WEIGHT = torch.tensor([0.5, 1.0, 2.0])
generator = torch.Generator().manual_seed(0)
X = torch.randn(2, 3, 7, 5, generator=generator)
LABELS = torch.randint(3, (2, 1, 7, 5), generator=generator)
IGNORING = LABELS.where(torch.rand(2, 1, 7, 5, generator=generator) < 0.7, 255)
HOT = functional.one_hot(LABELS[:, 0], 3).movedim(-1, 1)
P = X[:, :2].softmax(1)


def test_sigmoid_leaves_the_softmax_of_the_cross_entropy() -> None:
    loss = DiceCELoss(sigmoid=True, lambda_dice=0.0)(X, HOT)
    torch.testing.assert_close(loss, functional.cross_entropy(X, HOT.float()))


def test_weights_are_divided_by_where_targets_are_indices() -> None:
    options: dict[str, Any] = {"softmax": True, "weight": WEIGHT, "lambda_dice": 0.0}
    entropy = functional.cross_entropy(X, LABELS[:, 0], reduction="none", weight=WEIGHT)
    of_indices = entropy.sum() / WEIGHT[LABELS].sum()
    torch.testing.assert_close(DiceCELoss(to_onehot_y=True, **options)(X, LABELS), of_indices)
    torch.testing.assert_close(DiceCELoss(**options)(X, HOT), entropy.mean())


def test_focal_divides_by_the_classes_unless_voxels_are_ignored() -> None:
    softmax = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=0)(X, LABELS)
    torch.testing.assert_close(softmax, functional.cross_entropy(X, LABELS[:, 0]) / 3)
    binary = functional.binary_cross_entropy_with_logits(X, HOT.float(), reduction="none")
    loss = FocalLoss(to_onehot_y=True, gamma=0, ignore_index=255)
    counts = IGNORING[:, 0] != 255
    torch.testing.assert_close(
        loss(X, IGNORING), binary.movedim(1, -1)[counts].sum() / counts.sum()
    )
    torch.testing.assert_close(FocalLoss(gamma=0)(X, HOT), binary.mean())
    loss = FocalLoss(gamma=0, reduction="sum")
    torch.testing.assert_close(loss(X, HOT), binary.mean((2, 3)).sum())


def test_the_softmax_of_focal_does_not_see_the_background() -> None:
    loss = FocalLoss(False, True, gamma=0, use_softmax=True)
    foreground = (X[:, 1:].log_softmax(1) * HOT[:, 1:]).mean()
    torch.testing.assert_close(loss(X, LABELS), -foreground)
    torch.testing.assert_close(loss(X, LABELS.to(torch.uint8)), -foreground)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_compound_losses_are_the_sums_of_their_parts(seed: int, activation: str | None) -> None:
    x = torch.randn(2, 3, 7, 5, generator=torch.Generator().manual_seed(seed))
    head: dict[str, Any] = {"include_background": False, "to_onehot_y": True}
    options: dict[str, Any] = {activation: True} if activation else {}
    dice, focal = DiceLoss(**head, **options)(x, LABELS), FocalLoss(**head)(x, LABELS)
    exact: dict[str, Any] = {"rtol": 1e-7, "atol": 0}
    loss = DiceFocalLoss(**head, **options, lambda_focal=0.5)(x, LABELS)
    torch.testing.assert_close(loss, dice + 0.5 * focal, **exact)
    loss = GeneralizedDiceFocalLoss(**head, **options, lambda_gdl=2.0)
    torch.testing.assert_close(
        loss(x, LABELS), 2.0 * loss.generalized_dice(x, LABELS) + focal, **exact
    )
    loss = DiceCELoss(**head, **options, lambda_ce=3.0)
    torch.testing.assert_close(loss(x, LABELS), dice + 3.0 * loss.ce(x, LABELS), **exact)


@pytest.mark.parametrize("ignored", [None, 1])
@pytest.mark.parametrize("items", [0, 2])
def test_focal_of_nothing(ignored: int | None, items: int) -> None:
    x, labels = torch.zeros(items, 3, 4), torch.ones(items, 1, 4)
    for reduction in ("mean", "sum"):
        options: dict[str, Any] = {"ignore_index": ignored, "reduction": reduction}
        options["to_onehot_y"] = True
        expected = monai.losses.FocalLoss(**options)(x, labels)
        torch.testing.assert_close(FocalLoss(**options)(x, labels), expected, equal_nan=True)


def test_unified_focal_by_hand() -> None:
    p, t = P.double(), torch.cat([LABELS != 1, LABELS == 1], 1).double()
    entropy = -t * p.log()
    focal = torch.stack([0.3 * (1 - p[:, 0]).sqrt() * entropy[:, 0], 0.7 * entropy[:, 1]]).mean()
    tp, fn, fp = ((t * p).sum((2, 3)), (t * (1 - p)).sum((2, 3)), ((1 - t) * p).sum((2, 3)))
    error = 1 - (tp + 1e-7) / (tp + 0.7 * fn + 0.3 * fp + 1e-7)
    tversky = torch.stack([error[:, 0], error[:, 1].sqrt()]).mean()
    for reduction in ("mean", "sum", "none"):  # which MONAI gives to neither part
        loss = AsymmetricUnifiedFocalLoss(weight=0.2, reduction=reduction)
        torch.testing.assert_close(loss(P.double(), t), 0.2 * focal + 0.8 * tversky)


def test_unified_focal_has_a_gradient_where_the_prediction_is_perfect() -> None:
    p = functional.one_hot(LABELS[:, 0] % 2, 2).movedim(-1, 1).float().requires_grad_()
    AsymmetricUnifiedFocalLoss(to_onehot_y=True)(p, LABELS % 2).backward()
    assert p.grad is not None
    assert p.grad.isfinite().all()


CONSTRUCTIONS: list[tuple[Any, Any, dict[str, Any]]] = [
    (FocalLoss, monai.losses.FocalLoss, {"reduction": "median"}),
    (DiceCELoss, monai.losses.DiceCELoss, {"reduction": "none"}),
    (DiceCELoss, monai.losses.DiceCELoss, {"lambda_dice": -1.0}),
    (DiceCELoss, monai.losses.DiceCELoss, {"lambda_ce": -1.0}),
    (DiceCELoss, monai.losses.DiceCELoss, {"weight": [1.0, 2.0]}),
    (DiceCELoss, monai.losses.DiceCELoss, {"sigmoid": True, "softmax": True}),
    (DiceCELoss, monai.losses.DiceCELoss, {"other_act": 3}),
    (DiceFocalLoss, monai.losses.DiceFocalLoss, {"lambda_dice": -1.0}),
    (DiceFocalLoss, monai.losses.DiceFocalLoss, {"lambda_focal": -1.0}),
    (DiceFocalLoss, monai.losses.DiceFocalLoss, {"other_act": 3}),
    (DiceFocalLoss, monai.losses.DiceFocalLoss, {"alpha": 0.1, "beta": 0.2}),
    (GeneralizedDiceFocalLoss, monai.losses.GeneralizedDiceFocalLoss, {"lambda_gdl": -1.0}),
    (GeneralizedDiceFocalLoss, monai.losses.GeneralizedDiceFocalLoss, {"lambda_focal": -1.0}),
    (GeneralizedDiceFocalLoss, monai.losses.GeneralizedDiceFocalLoss, {"w_type": "cubic"}),
    (AsymmetricFocalLoss, unified.AsymmetricFocalLoss, {"reduction": "median"}),
    (AsymmetricFocalTverskyLoss, unified.AsymmetricFocalTverskyLoss, {"reduction": "median"}),
    (AsymmetricUnifiedFocalLoss, unified.AsymmetricUnifiedFocalLoss, {"reduction": "median"}),
]


@pytest.mark.parametrize(("ours", "theirs", "options"), CONSTRUCTIONS)
def test_wrong_constructions(ours: Any, theirs: Any, options: dict[str, Any]) -> None:  # noqa: ANN401
    assert_same_error(lambda: theirs(**options), lambda: ours(**options), *options)


def assert_same_error(
    theirs: Callable[[], object], ours: Callable[[], object], *words: str
) -> None:
    """Assert that ours raises what the peer raises, and names these words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception) as expected:  # noqa: PT011
            theirs()
        with pytest.raises(expected.type) as found:
            ours()
    message = str(found.value)
    assert any(word in message for word in words), message


BIG = torch.zeros(2, 1, 7, 6)
CALLS: dict[str, list[tuple[dict[str, Any], Tensor, Tensor, str]]] = {
    "FocalLoss": [
        ({}, X, LABELS, "[2, 1, 7, 5]"),
        ({"to_onehot_y": True}, X, HOT, "channel"),
        ({"to_onehot_y": True}, X, BIG, "[2, 3, 7, 6]"),
        ({"to_onehot_y": True, "alpha": [0.1, 0.2]}, X, LABELS, "alpha"),
        ({"to_onehot_y": True, "alpha": [0.1, 0.2], "use_softmax": True}, X, LABELS, "alpha"),
        ({"to_onehot_y": True, "weight": [0.1, 0.2]}, X, LABELS, "weight"),
        ({"to_onehot_y": True, "weight": [0.1, -0.2, 1]}, X, LABELS, "weight"),
        ({"to_onehot_y": True, "weight": -0.2}, X, LABELS, "weight"),
        ({"weight": [0.1, 0.2]}, X[:, :1], HOT[:, :1], "weight"),
    ],
    "DiceCELoss": [
        ({}, X, LABELS[0], "dimensions"),
        ({}, X, HOT[:, :2], "channels"),
        ({}, X, LABELS, "[2, 1, 7, 5]"),
        ({"to_onehot_y": True}, X, HOT, "channel"),
        ({"to_onehot_y": True}, X, BIG, "[2, 1, 7, 6]"),
        ({**HEAD, "weight": WEIGHT[:2]}, X, LABELS, "weight"),
        ({**HEAD, "weight": -WEIGHT}, X, LABELS, "weight"),
        ({**HEAD, "weight": torch.tensor(2.0)}, X, LABELS, "weight"),
    ],
    "DiceFocalLoss": [
        ({}, X, LABELS[0], "dimensions"),
        ({}, X, HOT[:, :2], "channels"),
        ({}, X, LABELS, "[2, 1, 7, 5]"),
        ({"to_onehot_y": True, "softmax": True}, X, HOT, "channel"),
        ({"to_onehot_y": True, "softmax": True}, X, BIG, "[2, 1, 7, 6]"),
        ({**HEAD, "weight": [1.0, 2.0]}, X, LABELS, "weight"),
    ],
    "GeneralizedDiceFocalLoss": [
        ({}, X, LABELS[0], "dimensions"),
        ({}, X, HOT[:, :2], "channels"),
        ({"softmax": True}, X, LABELS, "[2, 1, 7, 5]"),
        ({"to_onehot_y": True}, X, HOT, "channel"),
        ({**HEAD, "weight": [1.0, 2.0]}, X, LABELS, "weight"),
    ],
    "AsymmetricUnifiedFocalLoss": [
        ({}, P[0], LABELS[0], "dimensions"),
        ({}, P, LABELS, "[2, 1, 7, 5]"),
        ({}, P[:, :1], P, "shape"),
        ({"to_onehot_y": True}, P, HOT, "channel"),
        ({"to_onehot_y": True}, P, BIG, "[2, 2, 7, 6]"),
        ({"to_onehot_y": True, "num_classes": 3}, P, LABELS, "[2, 3, 7, 5]"),
        ({}, P[:, :1], LABELS, "class"),
        ({}, P[:, :1], 1.5 * LABELS, "class"),
        ({}, P[:, :1], -1.0 * LABELS, "class"),
        ({}, P, 2.0 * HOT[:, :2], "class"),
    ],
    "AsymmetricFocalLoss": [
        ({}, P, LABELS, "[2, 1, 7, 5]"),
        ({}, P[:, :1], LABELS, "y_pred"),
        ({"to_onehot_y": True}, P[:, :1], LABELS, "y_pred"),
        ({"to_onehot_y": True}, P, HOT, "channel"),
    ],
    "AsymmetricFocalTverskyLoss": [
        ({}, P, LABELS, "[2, 1, 7, 5]"),
        ({}, P[:, :1], LABELS, "y_pred"),
        ({}, P[:, :, 0, 0], P[:, :, 0, 0], "y_pred"),
    ],
}
OURS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        *(FocalLoss, DiceCELoss, DiceFocalLoss, GeneralizedDiceFocalLoss),
        *(AsymmetricFocalLoss, AsymmetricFocalTverskyLoss, AsymmetricUnifiedFocalLoss),
    )
}


@pytest.mark.parametrize(
    ("name", "number"), [(name, i) for name, calls in CALLS.items() for i in range(len(calls))]
)
def test_wrong_calls(name: str, number: int) -> None:
    options, x, target, word = CALLS[name][number]
    package = unified if name.startswith("Asymmetric") else monai.losses
    assert_same_error(
        lambda: getattr(package, name)(**options)(x, target),
        lambda: OURS[name](**options)(x, target),
        word,
    )


ONE_PASS: dict[str, tuple[nn.Module, Tensor, Tensor]] = {
    "focal": (FocalLoss(to_onehot_y=True), X, LABELS),
    "focal, softmax": (FocalLoss(to_onehot_y=True, use_softmax=True, alpha=0.3), X, LABELS),
    "focal, foreground": (FocalLoss(False, True, use_softmax=True), X, LABELS),
    "focal, ignored": (FocalLoss(to_onehot_y=True, ignore_index=255), X, IGNORING),
    "focal, values": (FocalLoss(False, alpha=0.3, weight=[1.0, 2.0]), X, HOT.float()),
    "focal, one class": (FocalLoss(), X[:, :1], HOT[:, :1].float()),
    "dice, ce": (DiceCELoss(**HEAD), X, LABELS),
    "dice, ce, options": (
        DiceCELoss(False, **HEAD, squared_pred=True, weight=WEIGHT, label_smoothing=0.1),
        X,
        LABELS,
    ),
    "dice, ce, values": (DiceCELoss(softmax=True), X, HOT.float()),
    "dice, ce, sigmoid": (DiceCELoss(sigmoid=True), X, HOT.float()),
    "dice, bce": (DiceCELoss(sigmoid=True, weight=torch.tensor([2.0])), X[:, :1], HOT[:, :1]),
    "dice, focal": (DiceFocalLoss(False, **HEAD, alpha=0.3), X, LABELS),
    "dice, focal, values": (DiceFocalLoss(sigmoid=True), X, HOT.float()),
    "dice, focal, one class": (DiceFocalLoss(sigmoid=True), X[:, :1], HOT[:, :1].float()),
    "generalised": (GeneralizedDiceFocalLoss(**HEAD), X, LABELS),
    "unified": (AsymmetricUnifiedFocalLoss(to_onehot_y=True), P, LABELS % 2),
    "unified, one class": (AsymmetricUnifiedFocalLoss(), P[:, :1], LABELS % 2),
}


@pytest.mark.parametrize("name", ONE_PASS)
def test_one_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counting(*arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401
        calls.append(keywords["terms"])
        return region_sums(*arguments, **keywords)

    loss, x, target = ONE_PASS[name]
    loss(x, target)  # is traced, without a pass, and then runs
    monkeypatch.setattr(_volumes, "region_sums", counting)
    loss(x, target)
    assert len(calls) == 1, calls


COMPILED = ("focal", "dice, ce", "dice, focal", "generalised", "unified")


@pytest.mark.torch_compile
@pytest.mark.parametrize("name", COMPILED)
def test_compiles_without_graph_breaks(name: str) -> None:
    loss, x, target = ONE_PASS[name]
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    compiled: Any = torch.compile(loss, fullgraph=True, backend="aot_eager")
    values = compiled(leaves[0], target), loss(leaves[1], target)
    torch.testing.assert_close(*values)
    for value in values:
        value.backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)
