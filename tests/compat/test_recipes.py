"""docs/recipes.md: every program, run with the lines of before and with those of after."""

from __future__ import annotations

import ast
import importlib
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests import pages
from tests.conftest import ROOT
from tests.suite.tiers import begins_in

PAGE = ROOT / "docs" / "recipes.md"
SMP = "segmentation_models_pytorch"
# Of the extra "recipes", which is installed for the tier "all" only.
HEAVY = ("pytorch_lightning", "transformers")
# What parts of MONAI need besides.
BEHIND = {"monai.bundle": "yaml", "monai.engines": "ignite"}


def programs() -> list[Any]:
    """Return the page's programs, as parameters."""
    found = [block for block in pages.blocks(PAGE) if block.language == "python"]
    return [
        pytest.param(
            block,
            id=pages.heading(PAGE, block.line),
            marks=[begins_in("all")] if set(imported(block.code)) & set(HEAVY) else [],
        )
        for block in found
    ]


def imported(code: str) -> Iterator[str]:
    """Yield the packages that a program imports, or that what it imports needs."""
    for node in ast.walk(ast.parse(code)):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            yield module.partition(".")[0]
            yield from [BEHIND[module]] if module in BEHIND else []


def version(code: str, other: str) -> str:
    """Return a text without the lines of the other version, which end in ``# before`` or so."""
    kept = ["" if line.endswith(f"  # {other}") else line for line in code.splitlines()]
    return "\n".join(kept)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def peers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make smp's losses importable without its models, and undo what a program patches."""
    spec = find_spec(SMP)
    if spec is not None and SMP not in sys.modules:
        package = ModuleType(SMP)
        package.__spec__ = spec
        package.__path__ = list(spec.submodule_search_locations or [])
        monkeypatch.setitem(sys.modules, SMP, package)
    before = {name for name in sys.modules if name.startswith(f"{SMP}.")}
    yield
    for name in [name for name in sys.modules if name.startswith(f"{SMP}.")]:
        if name not in before:
            del sys.modules[name]
    importlib.import_module("segloss_fast.compat.monai").unpatch()


def run(block: pages.Block, other: str, folder: Path) -> dict[str, Any]:
    """Return what a version of a program leaves behind; it finds the page's files in its folder."""
    for each in pages.blocks(PAGE):
        if each.language == "yaml":
            name = each.code.splitlines()[0].removeprefix("# ")
            (folder / name).write_text(version(each.code, other), encoding="utf-8")
    names: dict[str, Any] = {"__name__": "recipe"}
    code = "\n" * (block.line - 1) + version(block.code, other)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages, at import and in training
        exec(compile(code, str(PAGE), "exec"), names)
    return names


@pytest.mark.peers
@pytest.mark.parametrize("block", programs())
def test_recipe(block: pages.Block, folder: Path) -> None:
    missing = sorted({name for name in imported(block.code) if find_spec(name) is None})
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed (extras test and recipes)")
    after = run(block, "before", folder)
    importlib.import_module("segloss_fast.compat.monai").unpatch()
    before = run(block, "after", folder)
    torch.testing.assert_close(after["value"], before["value"], rtol=1e-5, atol=1e-6)
    assert after.get("keys") == before.get("keys")
    if "# after" in block.code and "loss" in after:
        assert type(after["loss"]).__module__.startswith("segloss_fast.")
        assert not type(before.get("loss")).__module__.startswith("segloss_fast.")
