"""Loads the native module; importing it registers its operators with torch."""

from __future__ import annotations

from types import ModuleType

import torch  # noqa: F401  # the native module links against libraries that torch loads

from segloss_fast._version import __version__


def _load() -> ModuleType | None:
    try:
        from segloss_fast import _C
    except ModuleNotFoundError as error:
        # Not built is a supported install. Anything else, a library that does not load above all, is an error.
        if error.name == "segloss_fast._C" or "cannot import name '_C'" in str(error):
            return None
        raise
    except ImportError as error:
        if str(error).startswith("cannot import name '_C'"):
            return None
        raise ImportError(
            f"segloss_fast was built with a native module that does not load: {error}. "
            "Rebuild it against the installed torch (make build), or remove it."
        ) from error
    built = _C.build_info()["version"]
    if built != __version__:
        raise ImportError(
            f"segloss_fast {__version__} found a native module built for {built}; rebuild it (make build)."
        )
    module: ModuleType = _C
    return module


_C = _load()
