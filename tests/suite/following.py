"""What coverage follows in a process of the tests: what they ask for, and the package's imports.

Up to Python 3.11 following costs time, whether code is of the package or not: an import of torch or
a run of pytest's own takes twice as long.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coverage import Coverage

_depth = 0


def _coverage() -> Coverage | None:
    """Return what follows this process, None mostly; without the import of it."""
    found = sys.modules.get("coverage")
    current: Coverage | None = None if found is None else found.Coverage.current()
    return current


@contextmanager
def following() -> Iterator[None]:
    """Let coverage follow what is called inside."""
    global _depth
    if _watcher is not None and _depth == 0:
        _watcher.start()
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if _watcher is not None and _depth == 0:
            _watcher.stop()


@contextmanager
def looking_away() -> Iterator[None]:
    """Let coverage follow nothing that is called inside, also of what it follows."""
    if _watcher is not None and _depth > 0:
        _watcher.stop()
    try:
        yield
    finally:
        if _watcher is not None and _depth > 0:
            _watcher.start()


def look_away() -> None:
    """Let coverage follow nothing but what is asked for, and imports of the package."""
    if _watcher is None:
        return
    _watcher.stop()
    execute = SourceFileLoader.exec_module

    def exec_module(self: SourceFileLoader, module: ModuleType) -> None:
        if module.__name__.partition(".")[0] != "segloss_fast":
            execute(self, module)
            return
        with following():
            execute(self, module)

    SourceFileLoader.exec_module = exec_module  # type: ignore[assignment, method-assign]


_watcher = _coverage()
