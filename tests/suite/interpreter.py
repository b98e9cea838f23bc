"""Triton's interpreter in half the time: hooks of pytest.

Before each call of a device function, of which a kernel makes hundreds for every program, the
interpreter looks through Triton's language for what it must replace. It did so as the kernel began;
what it does then is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tests.suite import kinds


def pytest_configure(config: pytest.Config) -> None:
    """Let this process replace once for each kernel."""
    if kinds.interpreting() and kinds.why_no_triton() is None:
        replace_once()


def replace_once() -> None:
    """Change the interpreter of the Triton versions that undo, after a kernel, what they replaced.

    Others are left as they are.
    """
    from triton.runtime import interpreter

    if hasattr(interpreter, "_LangPatchScope") and not hasattr(interpreter, "replace_always"):
        interpreter.replace_always = interpreter._patch_lang
        interpreter._patch_lang = _once(interpreter)


def _once(interpreter: ModuleType) -> Callable[[Any], object]:
    always, nothing = interpreter.replace_always, interpreter._LangPatchScope
    languages = (interpreter.tl, interpreter.tl.core)
    of_function: dict[int, frozenset[int]] = {}  # by the names that it sees
    replaced: set[int] = set()  # while a kernel runs

    def replace(fn: Any) -> object:  # noqa: ANN401
        names = fn.__globals__
        if id(names) not in of_function:
            found = (place for place, one in enumerate(languages) if one in _modules(names))
            of_function[id(names)] = frozenset(found)
        seen = of_function[id(names)]
        if replaced and seen <= replaced:
            return nothing()
        outermost = not replaced
        scope = always(fn)
        replaced.update(seen)
        if outermost:
            undo = scope.restore

            def restore() -> None:
                replaced.clear()
                undo()

            scope.restore = restore
        return scope

    return replace


def _modules(names: dict[str, object]) -> list[object]:
    return [value for value in names.values() if isinstance(value, ModuleType)]
