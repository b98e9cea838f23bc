"""Wrong calls of the drop-ins of kornia, which raise what kornia's raise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import kornia.losses
import pytest
import torch

from segloss_fast.compat import kornia as compat
from segloss_fast.compat.kornia import _errors

pytestmark = pytest.mark.peers

THEIRS: Any = kornia.losses
X, LABELS = torch.zeros(2, 3, 4, 5), torch.zeros(2, 4, 5, dtype=torch.int64)
ONES = torch.ones(3)
IMAGES: dict[str, tuple[Any, ...]] = {
    "pred is no tensor": ([[0.0]], LABELS),
    "three dimensions": (X[0], LABELS[0]),
    "six dimensions": (X[:, :, None, None], LABELS[:, None, None]),
    "another size": (X, LABELS[..., 1:]),
    "another batch": (X, LABELS[:1]),
    "one-hot": (X, X),
    "another device": (X, LABELS.to("meta")),
    "int32": (X, LABELS.int()),
    "float": (X, LABELS.float()),
}
WEIGHTS: dict[str, tuple[Any, ...]] = {
    "weight is a list": (X, LABELS, {"weight": [1.0, 1.0, 1.0]}),
    "two weights": (X, LABELS, {"weight": ONES[:2]}),
    "a matrix of weights": (X, LABELS, {"weight": torch.ones(1, 3)}),
    "weight on another device": (X, LABELS, {"weight": ONES.to("meta")}),
}
WRONG: dict[str, dict[str, tuple[Any, ...]]] = {
    "dice_loss": {**IMAGES, **WEIGHTS, "average": (X, LABELS, {"average": "mean"})},
    "tversky_loss": IMAGES,
    "focal_loss": {
        **{
            name: call
            for name, call in IMAGES.items()
            if "dimensions" not in name and "is no" not in name
        },
        **WEIGHTS,
        "one dimension": (X[0, 0, 0], LABELS[0, 0]),
        "reduction": (X, LABELS, {"reduction": "average"}),
        "no classes": (X[:, :0], LABELS),
    },
    "binary_focal_loss_with_logits": {
        "one dimension": (X[0, 0, 0], X[0, 0, 0]),
        "another size": (X, X[..., 1:]),
        "class indices": (X, LABELS),
        "another device": (X, X.to("meta")),
        "reduction": (X, X, {"reduction": "average"}),
        **{name: (X, X, call[2]) for name, call in WEIGHTS.items()},
        "two pos_weights": (X, X, {"pos_weight": ONES[:2]}),
        "pos_weight is a list": (X, X, {"pos_weight": [1.0, 1.0, 1.0]}),
    },
    "lovasz_softmax_loss": {
        "three dimensions": IMAGES["three dimensions"],
        "six dimensions": IMAGES["six dimensions"],
        "another size": IMAGES["another size"],
        "another batch": (X, LABELS[:1]),
        "one-hot": (X, X),
        "another device": IMAGES["another device"],
        "one class": (X[:, :1], LABELS),
        **WEIGHTS,
    },
    "lovasz_hinge_loss": {
        "three dimensions": IMAGES["three dimensions"],
        "classes": (X, LABELS),
        "another size": (X[:, :1], LABELS[..., 1:]),
        "another batch": (X[:1, :1], LABELS),
        "one-hot": (X[:, :1], X[:, :1]),
        "another device": (X[:, :1], LABELS.to("meta")),
    },
}
MODULES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "volume": ("HausdorffERLoss", (X[:, :, None], LABELS[:, None, None])),
    "image": ("HausdorffERLoss3D", (X, LABELS[:, None])),
    "no channel": ("HausdorffERLoss", (X, LABELS)),
    "one-hot": ("HausdorffERLoss", (X, X.long())),
    "another size": ("HausdorffERLoss", (X, LABELS[:, None, 1:])),
    "float": ("HausdorffERLoss", (X, LABELS[:, None].float())),
    "label too large": ("HausdorffERLoss", (X, LABELS[:, None] + 3)),
    "label below 0": ("HausdorffERLoss", (X, LABELS[:, None] - 1)),
    "reduction": ("HausdorffERLoss", (X, LABELS[:, None], {"reduction": "average"})),
}


def error(
    call: Callable[..., object], arguments: tuple[Any, ...], needed: Mapping[str, object]
) -> Exception:
    """Return what a call raises; the last argument holds the options."""
    options = {**needed, **(arguments[2] if len(arguments) > 2 else {})}
    with pytest.raises(Exception) as raised:  # noqa: PT011
        call(*arguments[:2], **options)
    return raised.value


@pytest.mark.parametrize(
    ("name", "what"), [(name, what) for name, calls in WRONG.items() for what in calls]
)
def test_wrong_calls(name: str, what: str) -> None:
    needed = {"alpha": 0.5} if name in ("focal_loss", "tversky_loss") else {}
    needed |= {"beta": 0.5} if name == "tversky_loss" else {}
    ours, theirs = (
        error(getattr(package, name), WRONG[name][what], needed) for package in (compat, THEIRS)
    )
    assert isinstance(ours, type(theirs)), (ours, theirs)
    assert "got" in str(ours)


@pytest.mark.parametrize("what", MODULES)
def test_wrong_calls_of_hausdorff_losses(what: str) -> None:
    name, arguments = MODULES[what]

    def called(package: Any) -> Callable[..., object]:  # noqa: ANN401
        return lambda x, target, **options: getattr(package, name)(**options)(x, target)

    ours, theirs = (error(called(package), arguments, {}) for package in (compat, THEIRS))
    assert isinstance(ours, type(theirs)), (ours, theirs)
    assert "got" in str(ours)


@pytest.mark.parametrize("wrong", [3, -1])
def test_labels_that_are_no_class(wrong: int) -> None:
    target = LABELS + wrong
    for call, arguments in (
        (compat.dice_loss, (X, target)),
        (compat.dice_loss, (X[:, :1], target)),
        (compat.tversky_loss, (X, target, 0.5, 0.5)),
        (compat.focal_loss, (X, target, None)),
        (compat.focal_loss, (X, target, None, 2.0, "mean")),
        (compat.lovasz_softmax_loss, (X, target)),
    ):
        function: Any = call
        with pytest.raises(ValueError, match="target must hold"):
            function(*arguments)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (compat.focal_loss, ([[0.0]], LABELS, None)),
        (compat.dice_loss, (X, [0])),
        (compat.HausdorffERLoss(), (X, [0])),
        (compat.focal_loss, (X, LABELS, None, torch.ones(3, 1, 1))),
    ],
)
def test_arguments_of_the_wrong_type(call: Any, arguments: tuple[object, ...]) -> None:  # noqa: ANN401
    with pytest.raises(TypeError, match="got"):
        call(*arguments)


def test_errors_without_kornia(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "kornia.core.exceptions")
    for kind, base in ((_errors.ShapeError, ValueError), (_errors.TypeCheckError, TypeError)):
        found = _errors.error(kind, "said")
        assert type(found) is kind
        assert isinstance(found, (_errors.BaseError, base))
        assert isinstance(found, base)
        assert str(found) == "said"
    with pytest.raises(_errors.BaseError, match="average must be one of"):
        compat.dice_loss(X, LABELS, "mean")
