"""Which implementation runs: the one rule that turns ``impl="auto"`` into a name."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

import torch

IMPLS = ("auto", "reference", "native", "triton")

_default = "auto"
_debug = False


def check_impl(impl: object) -> None:
    """Raise TypeError unless ``impl`` is a str, ValueError unless it names an implementation."""
    if not isinstance(impl, str):
        raise TypeError(f"impl must be a str, one of {', '.join(IMPLS)}, got {type(impl).__name__}")
    if impl not in IMPLS:
        raise ValueError(f"impl must be one of {', '.join(IMPLS)}, got {impl!r}")


def set_impl(impl: str) -> None:
    """Set what ``impl="auto"`` means from now on, in the whole process.

    Args:
        impl: ``"auto"`` (the fastest that this install has for the tensors at hand),
            ``"reference"``, ``"native"`` or ``"triton"``.

    Raises:
        ValueError: If ``impl`` is none of these.
    """
    global _default
    check_impl(impl)
    _default = impl


class use_impl:  # reads as a function: with use_impl("reference"):
    """Set what ``impl="auto"`` means for a ``with`` block, in the whole process.

    Args:
        impl: As in :func:`set_impl`.

    Raises:
        ValueError: If ``impl`` names no implementation.
    """

    def __init__(self, impl: str) -> None:
        check_impl(impl)
        self.impl = impl
        self._outer: list[str] = []  # a stack: the same object may be entered again inside

    def __enter__(self) -> None:
        self._outer.append(_default)
        set_impl(self.impl)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        set_impl(self._outer.pop())


class debug:  # called as a function, or used as: with debug(True):
    """Turn debug mode on or off, for the process or, in a ``with`` statement, for the block.

    Out-of-range labels raise ``ValueError`` on the CPU always. On a GPU finding them needs a
    synchronisation, so there the loss becomes NaN instead; in debug mode it raises as on the CPU.

    Args:
        enabled: Whether debug mode is on from now on.
    """

    def __init__(self, enabled: bool = True) -> None:
        global _debug
        self._outer = _debug
        _debug = bool(enabled)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        global _debug
        _debug = self._outer


def debug_enabled() -> bool:
    """Whether debug mode is on."""
    return _debug


def transforms_active() -> bool:
    """Whether a transform of torch.func is at work, for which kernels have no rules."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def resolve(impl: str, candidates: tuple[str, ...], why_not: Callable[[str], str | None]) -> str:
    """Return the implementation to run.

    Args:
        impl: What the caller asked for.
        candidates: Kernels in order of preference for ``"auto"``.
        why_not: Returns the reason why a kernel cannot serve this call, None where it can.

    Returns:
        ``"reference"`` or one of ``candidates``.

    Raises:
        ValueError: If ``impl`` names no implementation.
        RuntimeError: If it names a kernel that cannot serve this call.
    """
    check_impl(impl)
    impl = _default if impl == "auto" else impl
    if impl == "auto":
        return next((name for name in candidates if why_not(name) is None), "reference")
    if impl == "reference":
        return impl
    reason = why_not(impl)
    if reason is not None:
        raise RuntimeError(f"impl={impl!r} is not available here: {reason}")
    return impl
