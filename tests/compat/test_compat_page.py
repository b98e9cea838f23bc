"""docs/compat.md, and the benchmark whose results it shows: nothing that exists is missing."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

from benchmarks.cases import dropins
from segloss_fast.compat._peers import PEERS
from tests.compat import counts

pytestmark = pytest.mark.peers

TEXT = counts.PAGE.read_text(encoding="utf-8")


def exported(peer: str) -> dict[str, Any]:
    """Return the losses of a drop-in module by the names of their definitions."""
    module = importlib.import_module(f"segloss_fast.compat.{peer}")
    values = (vars(module)[name] for name in module.__all__)
    losses = (value for value in values if inspect.isclass(value) or inspect.isfunction(value))
    named = {value.__name__: value for value in losses}
    return {name: value for name, value in named.items() if not is_no_loss(name)}


def is_no_loss(name: str) -> bool:
    """Whether it is something else that a module exports; mixins make nnU-Net's trainers."""
    return name in NO_LOSSES or name.endswith("Mixin")


NO_LOSSES = {"patch", "unpatch", "softmax_helper_dim1", "too_old"}
by_peer = pytest.mark.parametrize("peer", PEERS)


@by_peer
def test_every_drop_in_is_tried(peer: str) -> None:
    tried = {name for module, name in counts.calls() if module == peer}
    assert exported(peer).keys() <= tried


@pytest.mark.parametrize("peer", dropins.PEERS)  # nnU-Net's are measured together: bench_nnunet.py
def test_every_class_is_measured(peer: str) -> None:
    classes = {name for name, value in exported(peer).items() if inspect.isclass(value)}
    measured = {case.name for case in dropins.DROPINS if case.peer == peer}
    assert measured == classes


def test_numbers_of_calls_are_those_of_the_tests() -> None:
    assert f"{counts.BEGIN}\n{counts.table()}\n{counts.END}" in TEXT, (
        "python -m tests.compat.counts --publish"
    )


@by_peer
def test_versions_and_differences_are_on_the_page(peer: str) -> None:
    assert PEERS[peer].version in TEXT
    for difference in PEERS[peer].differences:
        assert difference in TEXT
