"""The drop-ins of MONAI as classes and modules: signatures, attributes, state dicts, and copies."""

from __future__ import annotations

import contextlib
import copy
import doctest
import inspect
import pickle
from typing import Any

import monai.losses
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

import segloss_fast
from segloss_fast.compat import monai as compat
from segloss_fast.compat.monai._names import ALIASES, MODULE_OF, original_module
from tests.compat.monai_classes import LOSSES, THEIRS, arguments, build
from tests.suite.tiers import few

pytestmark = pytest.mark.peers

each = pytest.mark.parametrize("name", LOSSES)
weighted = pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].weighted])


def gradient(loss: nn.Module, given: list[Any]) -> tuple[Tensor, Tensor]:
    """Return the value and the gradient of a call."""
    value = loss(*given)
    leaf = next(x for x in given if x.requires_grad)
    (found,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), found


def assert_same(ours: nn.Module, theirs: nn.Module, name: str) -> None:
    """Assert the same value and gradient."""
    torch.testing.assert_close(
        gradient(ours, arguments(name)), gradient(theirs, arguments(name)), rtol=1e-5, atol=1e-6
    )


def test_names_are_monais() -> None:
    assert set(LOSSES) == set(MODULE_OF)
    assert {*MODULE_OF, *ALIASES, "patch", "unpatch"} == set(compat.__all__)
    for alias, name in ALIASES.items():
        assert getattr(compat, alias) is getattr(compat, name)
        assert getattr(original_module(name), alias) is getattr(THEIRS, name)


def test_no_loss_that_segments_is_missing() -> None:
    others = {
        *("AUCMLoss", "BarlowTwinsLoss", "BendingEnergyLoss", "BoxGIoULoss", "ContrastiveLoss"),
        *("DiffusionLoss", "GlobalMutualInformationLoss", "JukeboxLoss", "PatchAdversarialLoss"),
        *("LocalNormalizedCrossCorrelationLoss", "PerceptualLoss", "SSIMLoss", "SURELoss"),
    }
    found = {value.__name__ for value in vars(monai.losses).values() if kind(value)}
    assert found - others <= set(MODULE_OF)


def kind(value: object) -> bool:
    """Whether a value is a loss of MONAI's."""
    return isinstance(value, type) and value.__module__.startswith("monai.losses")


@each
@pytest.mark.parametrize("method", ["__init__", "forward"])
def test_signature(name: str, method: str) -> None:
    ours, theirs = (
        [
            (parameter.name, parameter.kind, parameter.default)
            for parameter in inspect.signature(getattr(package, method)).parameters.values()
        ]
        for package in (getattr(compat, name), getattr(THEIRS, name))
    )
    assert ours == theirs


@each
@pytest.mark.parametrize("with_weights", [False, True])
def test_attributes(name: str, with_weights: bool) -> None:
    ours, theirs = (build(name, ours=mine, weighted=with_weights) for mine in (True, False))
    assert isinstance(ours, _Loss)
    found, expected = dict(ours.named_modules()), dict(theirs.named_modules())
    assert list(found) == list(expected)
    for path, module in expected.items():
        assert type(found[path]).__name__ == type(module).__name__
        assert_same_attributes(found[path], module)


def assert_same_attributes(ours: nn.Module, theirs: nn.Module) -> None:
    """Assert that public attributes are the same; a function, that its name is."""
    a, b = ({k: v for k, v in vars(x).items() if k[0] != "_"} for x in (ours, theirs))
    a |= dict(ours.named_buffers(recurse=False))
    b |= dict(theirs.named_buffers(recurse=False))
    assert set(a) == set(b)
    for name, value in b.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(a[name], value)
        elif inspect.isfunction(value):
            assert a[name].__name__ == value.__name__
        elif callable(value):
            assert callable(a[name])
        else:
            assert a[name] == value, name
            assert isinstance(a[name], type(value)) or isinstance(value, str)


@each
@pytest.mark.parametrize("with_weights", [False, True])
def test_state_dicts_load_both_ways(name: str, with_weights: bool) -> None:
    ours, theirs = (build(name, ours=mine, weighted=with_weights) for mine in (True, False))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.state_dict() or not (with_weights and LOSSES[name].weighted)
    changed = {key: value + 1 for key, value in theirs.state_dict().items()}
    ours.load_state_dict(changed)
    theirs.load_state_dict(ours.state_dict())
    assert_same(ours, theirs, name)


@weighted
def test_a_missing_key_is_an_error(name: str) -> None:
    ours = build(name, ours=True, weighted=True)
    with pytest.raises(RuntimeError, match="Missing key"):
        ours.load_state_dict({})


@each
def test_meta_tensors(name: str) -> None:
    given = arguments(name)
    theirs = gradient(build(name, ours=False), given)
    meta = [MetaTensor(x) for x in given]
    value = build(name, ours=True)(*meta)
    assert type(value) is Tensor
    leaf = next(x for x in given if x.requires_grad)
    (found,) = torch.autograd.grad(value, leaf)
    torch.testing.assert_close((value.detach(), found), theirs, rtol=1e-5, atol=1e-6)


@each
def test_copies(name: str) -> None:
    ours, theirs = (build(name, ours=mine, weighted=True) for mine in (True, False))
    for copied in (copy.deepcopy(ours), copy.copy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(copied) is type(ours)
        assert_same(copied, theirs, name)


@each
def test_old_pickles_are_taken_under_the_patch(name: str) -> None:
    theirs = build(name, ours=False, weighted=True)
    saved = pickle.dumps(theirs)
    with compat.patch():
        ours = pickle.loads(saved)
    assert type(ours) is getattr(compat, name)
    assert_same(ours, theirs, name)


@each
def test_subclasses(name: str) -> None:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        base.__init__(self, *args, **kwargs)
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self: Any, *given: Tensor) -> Tensor:  # noqa: ANN401
        value: Tensor = self.factor * base.forward(self, *given)
        return value

    base = getattr(compat, name)
    double = type("Double", (base,), {"__init__": __init__, "forward": forward})
    changed = build(name, ours=True, kind=double)
    given = arguments(name)
    torch.testing.assert_close(changed(*given), 2 * build(name, ours=True)(*given))
    assert isinstance(changed, base)
    assert "factor" in changed.state_dict()


@each
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_to(name: str, dtype: torch.dtype) -> None:
    ours, theirs = (build(name, ours=mine, weighted=True).to(dtype) for mine in (True, False))
    assert {k: v.dtype for k, v in ours.state_dict().items()} == {
        k: v.dtype for k, v in theirs.state_dict().items()
    }
    if dtype == torch.float64:
        a, b = (gradient(loss, arguments(name, dtype)) for loss in (ours, theirs))
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].scripts])
@pytest.mark.parametrize("patched", [False, True])
def test_script(name: str, patched: bool) -> None:
    ours = build(name, ours=True, weighted=True)
    before = dict(ours.named_modules())
    with compat.patch() if patched else contextlib.nullcontext():
        scripted = torch.jit.script(ours)
    assert_same(scripted, torch.jit.script(build(name, ours=False, weighted=True)), name)
    if "Generalized" not in name or "Wasserstein" in name:  # TorchScript passes over their w_type
        assert_same(ours, scripted, name)
    assert all(module is before[path] for path, module in ours.named_modules())


def test_scripts_of_modules_that_hold_losses() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss = compat.DiceLoss(softmax=True)

        def forward(self, x: Tensor, target: Tensor) -> Tensor:
            return self.loss(x, target)  # type: ignore[no-any-return]

    x, target = torch.randn(2, 3, 3), torch.eye(3)[None].expand(2, 3, 3)
    expected = compat.DiceLoss(softmax=True)(x, target)
    torch.testing.assert_close(torch.jit.script(Net())(x, target), expected)


def test_a_subclass_with_its_own_forward_is_scripted_as_it_is() -> None:
    class Own(compat.DiceLoss):
        def forward(self, input: Tensor, target: Tensor) -> Tensor:
            return (input - target).sum()

    assert torch.jit.script(Own())(torch.ones(2), torch.zeros(2)) == 2


@pytest.mark.parametrize("name", [*LOSSES, "patch"])
def test_help_begins_with_an_example_that_runs(name: str) -> None:
    text = inspect.getdoc(getattr(compat, name)) or ""
    names = {"torch": torch, "segloss_fast": segloss_fast}
    test = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
    assert test.examples
    out: list[str] = []
    assert doctest.DocTestRunner().run(test, out=out.append).failed == 0, "".join(out)


@pytest.mark.torch_compile
@pytest.mark.parametrize("name", few(list(LOSSES), quick=0, test=2))
def test_exports(name: str) -> None:
    loss, given = build(name, ours=True), [x.detach() for x in arguments(name)]
    exported = torch.export.export(loss, tuple(given), strict=False).module()
    torch.testing.assert_close(exported(*given), loss(*given))
