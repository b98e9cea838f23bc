"""The drop-ins of kornia as functions and modules: signatures, attributes, state dicts."""

from __future__ import annotations

import copy
import doctest
import inspect
import pickle
from typing import Any

import kornia.losses
import monai.losses
import pytest
import torch
from torch import Tensor, nn

import segloss_fast
from segloss_fast.compat import kornia as compat
from tests.helpers import gradient

pytestmark = pytest.mark.peers

# Of every module what it must be given.
NEEDED: dict[str, dict[str, Any]] = {
    "DiceLoss": {},
    "TverskyLoss": {"alpha": 0.3, "beta": 0.7},
    "FocalLoss": {"alpha": 0.25},
    "BinaryFocalLossWithLogits": {"alpha": 0.25},
    "LovaszSoftmaxLoss": {},
    "LovaszHingeLoss": {},
    "HausdorffERLoss": {},
    "HausdorffERLoss3D": {},
}
FUNCTION = {
    "DiceLoss": "dice_loss",
    "TverskyLoss": "tversky_loss",
    "FocalLoss": "focal_loss",
    "BinaryFocalLossWithLogits": "binary_focal_loss_with_logits",
    "LovaszSoftmaxLoss": "lovasz_softmax_loss",
    "LovaszHingeLoss": "lovasz_hinge_loss",
}
WEIGHTED = ("DiceLoss", "FocalLoss", "BinaryFocalLossWithLogits", "LovaszSoftmaxLoss")
THEIRS: Any = kornia.losses

each = pytest.mark.parametrize("name", NEEDED)


def arguments(name: str) -> tuple[Tensor, Tensor]:
    """Return a prediction and a target that a loss takes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 6, 7, generator=generator)
    target = torch.randint(0, 3, (2, 6, 7), generator=generator)
    if name == "BinaryFocalLossWithLogits":
        return x, (x + torch.randn(x.shape, generator=generator) > 0).float()
    if name == "LovaszHingeLoss":
        return x[:, :1], target.clamp_max(1)
    if name == "HausdorffERLoss":
        return x.softmax(1), target[:, None]
    if name == "HausdorffERLoss3D":
        return x[:, :, None].softmax(1), target[:, None, None]
    return x, target


def build(package: Any, name: str, **options: object) -> nn.Module:  # noqa: ANN401
    module: nn.Module = getattr(package, name)(**NEEDED[name], **options)
    return module


def assert_same(ours: nn.Module, theirs: nn.Module, name: str) -> None:
    """Assert the same value and gradient."""
    x, target = arguments(name)
    found, expected = (gradient(lambda x, loss=loss: loss(x, target), x) for loss in (ours, theirs))  # type: ignore[misc]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_names_are_kornias() -> None:
    assert set(compat.__all__) == {*NEEDED, *FUNCTION.values()}
    assert set(compat.__all__) <= set(THEIRS.__all__)


@pytest.mark.parametrize("name", [*FUNCTION.values(), *NEEDED])
def test_signature(name: str) -> None:
    ours, theirs = (
        [
            (parameter.name, parameter.kind, parameter.default)
            for parameter in inspect.signature(getattr(package, name)).parameters.values()
        ]
        for package in (compat, THEIRS)
    )
    assert ours == theirs


@each
def test_attributes_and_state(name: str) -> None:
    ours, theirs = build(compat, name), build(THEIRS, name)
    assert (
        inspect.signature(ours.forward).parameters.keys()
        == inspect.signature(theirs.forward).parameters.keys()
    )
    public = [{k: v for k, v in vars(m).items() if not k.startswith("_")} for m in (ours, theirs)]
    assert public[0] == public[1]
    for first, second in ((ours, theirs), (theirs, ours)):
        second.load_state_dict(first.state_dict(), strict=True)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()))
    assert_same(ours, theirs, name)
    assert_same(pickle.loads(pickle.dumps(ours)), theirs, name)
    assert_same(copy.deepcopy(ours), theirs, name)


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_are_kept_as_kornia_does(name: str) -> None:
    given = torch.tensor([0.5, 1.0, 2.0])
    for weight in (given, nn.Parameter(given)):
        ours, theirs = (build(package, name, weight=weight) for package in (compat, THEIRS))
        assert ours.weight is theirs.weight is weight
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert_same(ours, theirs, name)
    grads = [module.weight.grad for module in (ours, theirs)]
    assert grads[0] is grads[1] is not None  # of both, as both have the same parameter
    with pytest.raises(TypeError, match="weight"):
        build(compat, name, weight=[0.5, 1.0, 2.0])


@each
def test_calls_with_keywords(name: str) -> None:
    x, target = arguments(name)
    ours, theirs = (build(package, name)(pred=x, target=target) for package in (compat, THEIRS))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


class Tagged(Tensor):
    """A tensor as MONAI's MetaTensor is one."""


@each
def test_tensors_of_a_subclass(name: str) -> None:
    x, target = arguments(name)
    loss = build(compat, name)
    value, grad = gradient(lambda x: loss(x.as_subclass(Tagged), target.as_subclass(Tagged)), x)
    assert type(value) is Tensor
    torch.testing.assert_close((value, grad), gradient(lambda x: loss(x, target), x))


@pytest.mark.torch_compile
@each
def test_compiles_whole(name: str) -> None:
    x, target = arguments(name)
    options: dict[str, Any] = {"k": 2} if "Hausdorff" in name else {}
    options |= {"reduction": "mean"} if "Focal" in name else {}
    loss = build(compat, name, **options)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = gradient(lambda x: compiled(x, target), x)
    torch._dynamo.reset()
    torch.testing.assert_close(found, gradient(lambda x: loss(x, target), x))


@pytest.mark.parametrize("name", compat.__all__)
def test_help_begins_with_an_example_that_runs(name: str) -> None:
    text = inspect.getdoc(getattr(compat, name)) or ""
    names = {"torch": torch, "segloss_fast": segloss_fast}
    test = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
    assert test.examples
    out: list[str] = []
    assert doctest.DocTestRunner().run(test, out=out.append).failed == 0, "".join(out)


def test_equals_monais_losses() -> None:
    torch.manual_seed(0)
    x, target = torch.randn(2, 3, 6, 7), torch.randint(0, 3, (2, 6, 7))
    head: dict[str, Any] = {"to_onehot_y": True}
    tversky = {"softmax": True, "smooth_nr": 0, "smooth_dr": 1e-8, "alpha": 0.3, "beta": 0.7}
    focal = {"use_softmax": True, "gamma": 2.0, "alpha": 0.25}
    for ours, theirs in (
        (
            compat.TverskyLoss(0.3, 0.7),
            monai.losses.TverskyLoss(**head, **tversky),
        ),
        (compat.FocalLoss(0.25, reduction="mean"), monai.losses.FocalLoss(**head, **focal)),
    ):
        torch.testing.assert_close(ours(x, target), theirs(x, target[:, None]), rtol=1e-5, atol=0)
