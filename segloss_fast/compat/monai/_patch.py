"""MONAI's names in a running program, replaced by the drop-ins."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType, TracebackType
from typing import Any

from segloss_fast.compat.monai._names import ALIASES, MODULE_OF, PACKAGE, replaced

_LOCATOR = "monai.bundle.config_item"
# MONAI executes modules of its own twice when it is imported, so its end is watched, too.
_WATCHED = ("monai", PACKAGE, _LOCATOR)
_NAMES = {**MODULE_OF, **{alias: MODULE_OF[name] for alias, name in ALIASES.items()}}


class Patch:
    """What :func:`patch` returns: at the end of a ``with`` it restores what was there before."""

    def __init__(self, first: bool) -> None:
        self._first = first

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._first:
            unpatch()


def patch() -> Patch:
    """Replace the losses in ``monai.losses`` and its submodules by the drop-ins.

    >>> with segloss_fast.compat.monai.patch():
    ...     from monai.losses import DiceCELoss
    >>> DiceCELoss.__module__
    'segloss_fast.compat.monai.compound'

    It holds until :func:`unpatch`, or in a ``with`` until its end, and takes effect whether MONAI
    was imported before or is imported after. Bundles find the drop-ins by MONAI's names, the short
    ones too. What was imported by name before, also by other modules of MONAI, keeps MONAI's class,
    and objects keep theirs. A second call changes nothing: one :func:`unpatch` restores MONAI, and
    the end of an inner ``with`` leaves the outer one's state.

    Returns:
        A context manager, which need not be used.

    Raises:
        ImportError: If MONAI is not installed.
    """
    if _finder in sys.meta_path:
        return Patch(first=False)
    if sys.modules.get("monai") is None and importlib.util.find_spec("monai") is None:
        raise ImportError(
            "patch replaces the losses of MONAI, which is not installed (pip install monai); "
            "segloss_fast.compat.monai itself does not need it"
        )
    sys.meta_path.insert(0, _finder)
    _replace()
    return Patch(first=True)


def unpatch() -> None:
    """Restore MONAI's losses; nothing happens where they are not replaced."""
    if _finder not in sys.meta_path:
        return
    sys.meta_path.remove(_finder)
    _swap({ours: replaced[name] for name, ours in _drop_ins().items() if name in replaced})
    replaced.clear()
    locator = _locator()
    if locator is not None and hasattr(locator._find_classes_or_functions, "segloss_fast"):
        locator._find_classes_or_functions = locator._find_classes_or_functions.__wrapped__


def _drop_ins() -> dict[str, type[Any]]:
    module = importlib.import_module("segloss_fast.compat.monai")
    return {name: vars(module)[name] for name in MODULE_OF if name in vars(module)}


def _replace() -> None:
    """Replace MONAI's classes in those of its modules that are imported."""
    drop_ins = _drop_ins()
    for name, ours in drop_ins.items():
        module = sys.modules.get(MODULE_OF[name])
        theirs = None if module is None else vars(module).get(name)
        if theirs is not None and theirs is not ours:
            replaced[name] = theirs
    _swap({theirs: drop_ins[name] for name, theirs in replaced.items()})
    locator = _locator()
    if locator is not None and not hasattr(locator._find_classes_or_functions, "segloss_fast"):
        locator._find_classes_or_functions = _finding(locator._find_classes_or_functions)


def _swap(pairs: Mapping[type[Any], type[Any]]) -> None:
    """Replace classes by others, under any name in MONAI's modules of losses."""
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and f"{name}.".startswith(f"{PACKAGE}."):
            for attribute, value in list(vars(module).items()):
                if isinstance(value, type) and value in pairs:
                    setattr(module, attribute, pairs[value])


def _locator() -> Any:  # noqa: ANN401
    """Return the class by which MONAI's bundles find short names, if it is imported."""
    module = sys.modules.get(_LOCATOR)
    found = getattr(module, "ComponentLocator", None)
    return found if hasattr(found, "_find_classes_or_functions") else None


def _finding(method: Any) -> Any:  # noqa: ANN401
    """Return the method of a locator that finds drop-ins where they stand in MONAI's modules.

    MONAI's own passes over classes that say that they are of another module, as drop-ins do.
    """

    @functools.wraps(method)
    def found(self: object, modnames: Sequence[str] | str) -> dict[str, list[str]]:
        table: dict[str, list[str]] = method(self, modnames)
        searched = [modnames] if isinstance(modnames, str) else modnames
        for name, module in _NAMES.items():
            if module in searched and module not in table.setdefault(name, []):
                table[name].append(module)
        return {name: modules for name, modules in table.items() if modules}

    found.segloss_fast = True  # type: ignore[attr-defined]
    return found


class _Finder:
    """Finds the modules that are watched, as the other finders do, with another loader."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _WATCHED:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """Another loader, after which names are replaced."""

    def __init__(self, loader: Any) -> None:  # noqa: ANN401
        self._loader = loader

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module by its own loader, which is the one that it keeps."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        if _finder in sys.meta_path:
            _replace()


_finder: Any = _Finder()
