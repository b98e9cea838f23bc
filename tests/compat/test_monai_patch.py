"""MONAI's names under patch: what is replaced, what is not, and what is restored."""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import monai.losses
import monai.losses.cldice
import monai.losses.unified_focal_loss
import pytest
import torch
from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator

from segloss_fast.compat import monai as compat
from segloss_fast.compat.monai._names import ALIASES, MODULE_OF, original
from tests.conftest import ROOT, run_python

pytestmark = pytest.mark.peers


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Asserts that MONAI is itself before and after each test."""
    compat.unpatch()
    before = names()
    yield
    compat.unpatch()
    assert names() == before
    assert not any("segloss_fast" in type(finder).__module__ for finder in sys.meta_path)


def names() -> dict[tuple[str, str], object]:
    """Return everything in MONAI's modules of losses, and the method that finds short names."""
    modules = [name for name in sys.modules if f"{name}.".startswith("monai.losses.")]
    found: dict[tuple[str, str], object] = {
        (name, attribute): id(value)
        for name in modules
        for attribute, value in vars(sys.modules[name]).items()
    }
    found["locator", "method"] = ComponentLocator._find_classes_or_functions
    return found


def patched() -> bool:
    """Whether DiceLoss is the drop-in."""
    ours: bool = monai.losses.DiceLoss is compat.DiceLoss
    assert (original("DiceLoss") is not monai.losses.DiceLoss) == ours
    return ours


def test_all_names_are_replaced() -> None:
    with compat.patch():
        for name, module in MODULE_OF.items():
            ours = getattr(compat, name)
            assert getattr(importlib.import_module(module), name) is ours
            assert getattr(monai.losses, name, ours) is ours
        for alias, name in ALIASES.items():
            found = getattr(monai.losses, alias, None)
            assert getattr(importlib.import_module(MODULE_OF[name]), alias) is getattr(compat, name)
            assert isinstance(found, ModuleType) or found in (None, getattr(compat, name))
        assert vars(monai.losses.cldice)["DiceLoss"] is compat.DiceLoss
        assert monai.losses.SSIMLoss.__module__ == "monai.losses.ssim_loss"
    assert not patched()


def test_what_was_imported_before_keeps_monais_class() -> None:
    before = monai.losses.DiceCELoss
    loss = before(softmax=True, to_onehot_y=True)
    x, labels = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 1, 4, 4))
    value = loss(x, labels)
    with compat.patch():
        assert type(loss) is before is original("DiceCELoss")
        torch.testing.assert_close(loss(x, labels), value)
        # Its parts are looked up by name, so they are the new ones, of the same numbers.
        mixed = before(softmax=True, to_onehot_y=True)
        assert type(mixed.dice) is compat.DiceLoss
        torch.testing.assert_close(mixed(x, labels), value)
        torch.testing.assert_close(
            monai.losses.DiceCELoss(True, True, softmax=True)(x, labels), value
        )


def test_calls_are_idempotent() -> None:
    compat.unpatch()
    assert not patched()
    for _ in range(2):
        compat.patch()
        assert patched()
    for _ in range(2):
        compat.unpatch()
        assert not patched()


def test_contexts_nest() -> None:
    with compat.patch():
        with compat.patch():
            assert patched()
        assert patched()
    assert not patched()
    compat.patch()
    with compat.patch():
        assert patched()
    assert patched()
    compat.unpatch()
    with compat.patch():
        compat.unpatch()
        assert not patched()
    assert not patched()


def test_a_context_ends_with_an_error() -> None:
    with pytest.raises(KeyError), compat.patch():
        raise KeyError
    assert not patched()


def test_pickles_of_drop_ins_need_no_patch() -> None:
    with compat.patch():
        saved = pickle.dumps(monai.losses.TverskyLoss(alpha=0.3))
    assert type(pickle.loads(saved)) is compat.TverskyLoss


TARGETS = ["DiceCELoss", "dice_ce", "monai.losses.DiceCELoss", "monai.losses.dice.DiceCELoss"]


def parsed(target: str) -> Any:  # noqa: ANN401
    """Return what a bundle's configuration makes of a target."""
    config = {"loss": {"_target_": target, "softmax": True, "to_onehot_y": True}}
    return ConfigParser(config).get_parsed_content("loss")


@pytest.mark.parametrize("target", TARGETS)
def test_bundles_find_the_drop_ins(target: str) -> None:
    with compat.patch():
        assert type(parsed(target)) is compat.DiceCELoss
    assert type(parsed(target)) is monai.losses.DiceCELoss
    assert parsed(target).dice.softmax


def test_bundles_name_a_drop_in() -> None:
    loss = parsed("segloss_fast.compat.monai.DiceCELoss")
    assert type(loss) is compat.DiceCELoss
    assert loss.dice.softmax


def test_locators_find_the_same_modules() -> None:
    before = ComponentLocator()
    theirs = {name: before.get_component_module_name(name) for name in (*MODULE_OF, *ALIASES)}
    other = before.get_component_module_name("SSIMLoss")
    with compat.patch():
        fresh = ComponentLocator(excludes=["monai.losses.tversky"])
        ours = {name: fresh.get_component_module_name(name) for name in theirs}
        assert fresh.get_component_module_name("SSIMLoss") == other
        assert fresh.get_component_module_name("DiceLosses") is None
        assert type(parsed("DiceLoss")) is compat.DiceLoss
        assert before.get_component_module_name("DiceLoss") == "monai.losses.dice"
    assert ours == {**theirs, "TverskyLoss": None}
    assert fresh.get_component_module_name("DiceLoss") == "monai.losses.dice"


def test_monai_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(ImportError, match=r"MONAI, which is not installed \(pip install monai\)"):
        compat.patch()
    assert not any("segloss_fast" in type(finder).__module__ for finder in sys.meta_path)


BEFORE_MONAI = """
import sys
from segloss_fast.compat import monai as compat
assert "monai" not in sys.modules, "the drop-ins import MONAI"
compat.patch()
assert "monai" not in sys.modules, "patch imports MONAI"
import monai
from monai.losses import DiceLoss
from monai.losses.dice import Dice, dice_ce
from monai.losses.unified_focal_loss import AsymmetricFocalLoss
assert DiceLoss is Dice is compat.DiceLoss
assert dice_ce is compat.DiceCELoss
assert AsymmetricFocalLoss is compat.AsymmetricFocalLoss
from monai.apps.pathology.losses import hovernet_loss
assert hovernet_loss.DiceLoss is compat.DiceLoss
from monai.bundle import ConfigParser
parsed = ConfigParser({"loss": {"_target_": "FocalLoss"}}).get_parsed_content("loss")
assert type(parsed) is compat.FocalLoss
import importlib
assert importlib.reload(monai.losses).DiceLoss is compat.DiceLoss
modules = [monai, monai.losses, sys.modules["monai.bundle.config_item"]]
compat.unpatch()
assert monai.losses.DiceLoss.__module__ == "monai.losses.dice"
assert monai.losses.unified_focal_loss.AsymmetricFocalLoss.__module__.startswith("monai")
for module in modules:
    assert type(module.__loader__).__module__ != "segloss_fast.compat.monai._patch"
    assert module.__spec__.loader is module.__loader__
with compat.patch():
    assert monai.losses.DiceLoss is compat.DiceLoss
assert importlib.reload(monai.losses).DiceLoss is not compat.DiceLoss
"""

WITHOUT_MONAI = """
import sys
sys.modules["monai"] = None
import torch
from segloss_fast.compat import monai as compat
x = torch.randn(2, 3, 4, 4, requires_grad=True)
labels = torch.randint(3, (2, 1, 4, 4))
compat.DiceCELoss(softmax=True, to_onehot_y=True)(x, labels).backward()
for act in (compat.patch, lambda: torch.jit.script(compat.DiceLoss())):
    try:
        act()
    except ImportError as error:
        assert "pip install monai" in str(error), error
    else:
        raise AssertionError("no error")
"""


@pytest.mark.of("reference")
@pytest.mark.parametrize("code", [BEFORE_MONAI, WITHOUT_MONAI], ids=["before", "without"])
def test_in_a_new_process(code: str) -> None:
    done = run_python("-W", "ignore", "-c", code, folder=ROOT)
    assert done.returncode == 0, done.stdout
