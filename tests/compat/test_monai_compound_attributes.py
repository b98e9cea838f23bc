"""MONAI's focal and compound losses: what is changed after construction counts."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import monai.losses
import pytest
import torch
from monai.losses import unified_focal_loss
from torch import Tensor, nn
from torch.nn import functional

from segloss_fast.compat.monai.compound import DiceCELoss
from segloss_fast.compat.monai.compound_focal import DiceFocalLoss, GeneralizedDiceFocalLoss
from segloss_fast.compat.monai.dice import DiceLoss
from segloss_fast.compat.monai.focal import FocalLoss
from segloss_fast.compat.monai.tversky import TverskyLoss
from segloss_fast.compat.monai.unified_focal import (
    AsymmetricFocalLoss,
    AsymmetricFocalTverskyLoss,
    AsymmetricUnifiedFocalLoss,
)

pytestmark = pytest.mark.peers

OURS = SimpleNamespace(
    DiceLoss=DiceLoss,
    TverskyLoss=TverskyLoss,
    FocalLoss=FocalLoss,
    DiceCELoss=DiceCELoss,
    DiceFocalLoss=DiceFocalLoss,
    GeneralizedDiceFocalLoss=GeneralizedDiceFocalLoss,
    AsymmetricFocalLoss=AsymmetricFocalLoss,
    AsymmetricFocalTverskyLoss=AsymmetricFocalTverskyLoss,
    AsymmetricUnifiedFocalLoss=AsymmetricUnifiedFocalLoss,
)
THEIRS = SimpleNamespace(**{**vars(unified_focal_loss), **vars(monai.losses)})
HEAD: dict[str, Any] = {"to_onehot_y": True, "softmax": True}
WEIGHT = torch.tensor([0.5, 1.0, 2.0])
generator = torch.Generator().manual_seed(0)
X = torch.randn(2, 3, 7, 5, generator=generator)
LABELS = torch.randint(3, (2, 1, 7, 5), generator=generator)
IGNORING = LABELS.where(torch.rand(2, 1, 7, 5, generator=generator) < 0.7, 255)
HOT = functional.one_hot(LABELS[:, 0], 3).movedim(-1, 1)
BINARY = (LABELS == 1).float()


def value_and_gradient(loss: nn.Module, target: Tensor, x: Tensor = X) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = loss(x, target)
    value.sum().backward()
    assert x.grad is not None
    return value.detach(), x.grad


def assert_same(make: Callable[[Any], nn.Module], target: Tensor = LABELS, x: Tensor = X) -> None:
    """Assert that what is made of our classes gives what is made of MONAI's gives."""
    ours, theirs = (value_and_gradient(make(package), target, x) for package in (OURS, THEIRS))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


class OtherEntropy(nn.Module):
    """A cross-entropy of somebody else."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return 3 * functional.cross_entropy(input, target)


def changed(name: str, **values: object) -> Callable[[Any], nn.Module]:
    """Return what makes a loss and sets attributes, also those of submodules, ``a__b``."""

    def make(package: Any) -> nn.Module:  # noqa: ANN401
        options = {"to_onehot_y": True} if name == "FocalLoss" else HEAD
        loss: nn.Module = getattr(package, name)(**options)
        for path, value in values.items():
            *modules, attribute = path.split("__")
            owner = loss.get_submodule(".".join(modules))
            setattr(owner, attribute, value(package) if isinstance(value, Maker) else value)
        return loss

    return make


class Maker:
    """A value that is made of a package's classes."""

    def __init__(self, make: Callable[[Any], nn.Module]) -> None:
        self.make = make

    def __call__(self, package: Any) -> nn.Module:  # noqa: ANN401
        return self.make(package)


TVERSKY = Maker(lambda package: package.TverskyLoss(**HEAD))
OTHER_DICE = Maker(lambda package: package.DiceLoss(softmax=True, jaccard=True))
CHANGES: dict[str, list[dict[str, Any]]] = {
    "FocalLoss": [
        {"gamma": 0.5},
        {"gamma": torch.tensor(0.5)},
        {"gamma": -0.5},
        {"alpha": 0.3},
        {"alpha": torch.tensor([0.1, 0.2, 0.3])},
        {"class_weight": WEIGHT},
        {"use_softmax": True},
        {"include_background": False, "use_softmax": True},
        {"reduction": "sum"},
        {"ignore_index": 1},
    ],
    "DiceCELoss": [
        {"lambda_dice": 0.3},
        {"lambda_ce": 0.0},
        {"dice__squared_pred": True},
        {"dice__include_background": False},
        {"dice__softmax": False},
        {"dice__class_weight": WEIGHT},
        {"dice": TVERSKY},
        {"dice__ignore_index": 1},
        {"dice__ignore_index": 1, "cross_entropy__ignore_index": 1},
        {"cross_entropy__ignore_index": 1},
        {"cross_entropy__label_smoothing": 0.2},
        {"cross_entropy__label_smoothing": 0.2, "cross_entropy__weight": WEIGHT},
        {"cross_entropy__weight": WEIGHT},
        {"cross_entropy__reduction": "sum"},
        {"cross_entropy": OtherEntropy()},
    ],
    "DiceFocalLoss": [
        {"lambda_dice": 0.3},
        {"lambda_focal": 0.0},
        {"dice__sigmoid": True, "dice__softmax": False},
        {"dice__softmax": False},
        {"dice__include_background": False},
        {"dice__ignore_index": 1},
        {"dice": OTHER_DICE},
        {"focal__gamma": 1.5},
        {"focal__alpha": torch.tensor([0.1, 0.2, 0.3])},
        {"focal__include_background": False},
        {"focal__use_softmax": True},
        {"focal__use_softmax": True, "focal__include_background": False},
        {"focal__reduction": "sum"},
        {"focal__reduction": "none"},
        {"focal__ignore_index": 1},
        {"focal__class_weight": WEIGHT},
        {"to_onehot_y": False, "dice__to_onehot_y": True, "focal__to_onehot_y": True},
        {"focal": Maker(lambda package: package.TverskyLoss(sigmoid=True))},
    ],
    "GeneralizedDiceFocalLoss": [
        {"lambda_gdl": 0.3},
        {"generalized_dice__w_type": "simple"},
        {"generalized_dice__batch": True},
        {"generalized_dice": TVERSKY},
        {"focal__use_softmax": True},
        {"focal__gamma": 0.0},
    ],
}


@pytest.mark.parametrize(
    ("name", "values"), [(name, values) for name, each in CHANGES.items() for values in each]
)
def test_changed_attributes_count(name: str, values: dict[str, Any]) -> None:
    assert_same(changed(name, **values))


def test_voxels_that_both_parts_ignore() -> None:
    make = changed("DiceCELoss", dice__ignore_index=255, cross_entropy__ignore_index=255)
    assert_same(make, IGNORING)
    assert_same(make, IGNORING.to(torch.uint8))


@pytest.mark.parametrize(
    "values",
    [
        {"binary_cross_entropy__pos_weight": torch.tensor([3.0])},
        {"binary_cross_entropy__pos_weight": torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])},
        {"binary_cross_entropy__weight": torch.rand(7, 5, generator=generator)},
        {"binary_cross_entropy__reduction": "sum"},
        {"binary_cross_entropy": nn.MSELoss()},
        {"dice__ignore_index": 0},
    ],
)
def test_changed_binary_cross_entropy(values: dict[str, Any]) -> None:
    def make(package: Any) -> nn.Module:  # noqa: ANN401
        dice = {"dice__sigmoid": True, "dice__softmax": False, "dice__to_onehot_y": False}
        return changed("DiceCELoss", **dice, **values)(package)

    assert_same(make, BINARY, X[:, :1])
    assert_same(make, BINARY.bool(), X[:, :1])


UNIFIED: list[dict[str, Any]] = [
    {"weight": 0.1},
    {"ignore_index": 1},
    {"asy_focal_loss__delta": 0.2},
    {"asy_focal_loss__gamma": 2.0},
    {"asy_focal_loss__epsilon": 1e-3},
    {"asy_focal_loss__ignore_index": 0},
    {"asy_focal_tversky_loss__gamma": 0.1},
    {"asy_focal_tversky_loss__reduction": "sum"},
    {"asy_focal_tversky_loss": nn.MSELoss()},
]


@pytest.mark.parametrize("values", UNIFIED)
@pytest.mark.parametrize("kind", ["labels", "values", "one class"])
def test_changed_parts_of_unified_focal(values: dict[str, Any], kind: str) -> None:
    def make(package: Any) -> nn.Module:  # noqa: ANN401
        loss: nn.Module = package.AsymmetricUnifiedFocalLoss(to_onehot_y=kind == "labels")
        for path, value in values.items():
            *modules, attribute = path.split("__")
            setattr(loss.get_submodule(".".join(modules)), attribute, value)
        return loss

    p = X[:, :2].softmax(1)
    if kind == "labels":
        assert_same(make, LABELS % 2, p)
    elif kind == "values":
        assert_same(make, torch.cat([1 - BINARY, BINARY], 1), p)
    elif "ignore_index" not in values:  # of which MONAI warns
        assert_same(make, BINARY, p[:, :1])


def test_a_subclass_may_have_another_cross_entropy() -> None:
    def double(package: Any) -> nn.Module:  # noqa: ANN401
        def ce(self: Any, input: Tensor, target: Tensor) -> Tensor:  # noqa: ANN401
            value: Tensor = 2 * package.DiceCELoss.ce(self, input, target)
            return value

        kind = type("Double", (package.DiceCELoss,), {"ce": ce})
        loss: nn.Module = kind(**HEAD, weight=WEIGHT, label_smoothing=0.1)
        return loss

    assert_same(double)


@pytest.mark.parametrize("target", [LABELS, HOT, HOT.float().softmax(1)])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_cross_entropy_alone(target: Tensor, weight: Tensor | None) -> None:
    x = X.double()
    options = {**HEAD, "weight": None if weight is None else weight.double()}
    target = target.double() if target.is_floating_point() else target
    values = [package.DiceCELoss(**options).ce(x, target) for package in (OURS, THEIRS)]
    torch.testing.assert_close(*values)
    values = [package.DiceCELoss(**HEAD).bce(X[:, :1], BINARY) for package in (OURS, THEIRS)]
    torch.testing.assert_close(*values)
