"""Loads the native module; importing it registers its operators with torch."""

from __future__ import annotations

import importlib
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import torch  # noqa: F401  # the native module links against libraries that torch loads

from segloss_fast._version import __version__


def _load() -> ModuleType | None:
    # Beside this file only: the finder of an editable install would offer that of another copy.
    if PathFinder.find_spec("segloss_fast._C", [str(Path(__file__).parent)]) is None:
        return None  # a pure-Python install
    try:
        module = importlib.import_module("segloss_fast._C")
    except ImportError as error:
        raise ImportError(
            f"segloss_fast was built with a native module that does not load: {error}. "
            "Rebuild it against the installed torch (make build), or remove it."
        ) from error
    built = module.build_info()["version"]
    if built != __version__:
        raise ImportError(
            f"segloss_fast {__version__} found a native module built for {built}; "
            "rebuild it (make build)."
        )
    return module


_C = _load()
