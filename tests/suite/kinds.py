"""The kinds of tests: what a test needs, which says where its time goes and in which tier it runs.

A kind is a mark. Tests without one are told by the implementation that they are parametrised with.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from segloss_fast.ops import PRIMITIVES

INTERPRETED = "interpreted"
# The tier that a kind's tests begin in, unless they say otherwise themselves.
TIER = {
    "gpu": "quick",
    "sanitizers": "all",
    "compiled": "all",
    "install": "all",
    "shim": "all",
    INTERPRETED: "all",
    "torch_compile": "test",
    "peers": "test",
    "reference": "test",
    "native": "quick",
    "auto": "quick",
}
MARKS = tuple(kind for kind in TIER if kind not in ("native", "reference", "auto", INTERPRETED))
KIND = pytest.StashKey[str]()
# What follows the primitive's name in files of a contract that is too long for one.
CONTRACT_PARTS = (
    "_steps",
    "_bins",
    "_collapsed",
    "_targets",
    "_ignored",
    "_limits",
    "_torch",
    "_peers",
)
# Public functions that are no primitive of their own but have a contract: whose kernels they run.
SECOND = {"nearest_component": "distance_transform"}
# Long ones, which begin first, so that no worker is left with one at the end.
LONG = ("sanitizers", "compiled", "install", "shim")


def kind_of(item: pytest.Item) -> str:
    """Return the kind of a test; "auto" where it takes the implementation that a user gets."""
    if KIND not in item.stash:
        item.stash[KIND] = _kind(item)
    return item.stash[KIND]


def _kind(item: pytest.Item) -> str:
    if interpreting() or "interpreted" in item.path.stem:
        return INTERPRETED
    names = {mark.name for mark in item.iter_markers()}
    marked = next((mark for mark in MARKS if mark in names), None)
    if marked is not None:
        return marked
    impl = implementation(item)
    return impl if impl in ("native", "reference") else "auto"


def order_of(item: pytest.Item) -> int:
    """Return where a test stands among the kinds: long ones first."""
    kind = kind_of(item)
    return LONG.index(kind) if kind in LONG else len(LONG)


def implementation(item: pytest.Item) -> str | None:
    """Return the implementation that the test is parametrised or marked with, or none."""
    found = getattr(machine(item), "impl", None) or parameters(item).get("impl")
    if isinstance(found, str):
        return found
    mark = item.get_closest_marker("of")
    return None if mark is None else str(mark.args[0])


def machine(item: pytest.Item) -> object:
    """Return the machine (tests/machines.py) that the test runs on, or none."""
    return parameters(item).get("machine")


def parameters(item: pytest.Item) -> dict[str, object]:
    """Return what the test is parametrised with, by name."""
    call = getattr(item, "callspec", None)
    return {} if call is None else call.params


def contract_of(file: str) -> str | None:
    """Return the primitive whose contract a test file states, on machines of several processes."""
    name = file.removeprefix("test_")
    parts = ("", *CONTRACT_PARTS)
    whose = {each: each for each in PRIMITIVES} | SECOND
    return next((whose[each] for each in whose for part in parts if name == each + part), None)


@cache
def is_contract(path: Path) -> bool:
    """Whether a test file states the contract of a primitive on machines."""
    named = path.parent.name == "ops" and contract_of(path.stem) is not None
    return named and "tests.machines" in path.read_text()


def interpreting() -> bool:
    """Whether this process runs Triton's kernels in its interpreter.

    Triton decides at its first import, so these tests have a process of their own.
    """
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def why_no_triton() -> str | None:
    """Return why Triton's kernels cannot be tested here, None where they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    import triton

    versions = [tuple(map(int, v.split(".")[:2])) for v in (triton.__version__, np.__version__)]
    if interpreting() and versions[0] < (3, 7) and versions[1] >= (2, 4):
        return "this Triton's interpreter takes the int of arrays of one value, as NumPy does not"
    return None
