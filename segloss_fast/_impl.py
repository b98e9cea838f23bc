"""Which implementation runs: the one rule that turns ``impl="auto"`` into a name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from segloss_fast._install import warn_once
from segloss_fast._native import _C

T = TypeVar("T")

IMPLS = ("auto", "reference", "native", "triton")

_default = "auto"
_debug = False


class _Setting(Generic[T]):
    """A setting of the process, and the ``with`` blocks that change it, of all threads.

    The last block entered that has not been left decides, so that the blocks of two threads, left
    in any order, leave behind what was there before. What decides is copied into a global variable
    of this module, which is all that a call of a loss, and a graph of torch.compile, looks at.
    """

    def __init__(self, variable: str) -> None:
        self.variable = variable
        self.base: T = globals()[variable]
        self.blocks: list[tuple[object, T]] = []
        self.lock = threading.Lock()

    def set(self, value: T) -> None:
        with self.lock:
            self.base = value
            self._publish()

    def enter(self, block: object, value: T) -> None:
        with self.lock:
            self.blocks.append((block, value))
            self._publish()

    def leave(self, block: object) -> None:
        with self.lock:
            # The innermost of the same object, which may have been entered again inside.
            place = max(i for i, (entered, _) in enumerate(self.blocks) if entered is block)
            del self.blocks[place]
            self._publish()

    def _publish(self) -> None:
        globals()[self.variable] = self.blocks[-1][1] if self.blocks else self.base


_impls: _Setting[str] = _Setting("_default")
_debugs: _Setting[bool] = _Setting("_debug")


def check_impl(impl: object) -> None:
    """Raise TypeError unless ``impl`` is a str, ValueError unless it names an implementation."""
    if not isinstance(impl, str):
        raise TypeError(f"impl must be a str, one of {', '.join(IMPLS)}, got {type(impl).__name__}")
    if impl not in IMPLS:
        raise ValueError(f"impl must be one of {', '.join(IMPLS)}, got {impl!r}")


def set_impl(impl: str) -> None:
    """Set what ``impl="auto"`` means from now on, in the whole process.

    >>> segloss_fast.set_impl("auto")

    Args:
        impl: ``"auto"`` (the fastest that this install has for the tensors at hand),
            ``"reference"``, ``"native"`` or ``"triton"``.

    Inside a :class:`use_impl` block it takes effect when the block is left.

    Raises:
        ValueError: If ``impl`` is none of these.
    """
    check_impl(impl)
    _impls.set(impl)


class use_impl:  # reads as a function: with use_impl("reference"):
    """Set what ``impl="auto"`` means for a ``with`` block, in the whole process.

    >>> with segloss_fast.use_impl("reference"):
    ...     segloss_fast.DiceLoss()(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4))
    tensor(0.6667)

    Of blocks that overlap in several threads, the last that was entered decides.

    Args:
        impl: As in :func:`set_impl`.

    Raises:
        ValueError: If ``impl`` names no implementation.
    """

    def __init__(self, impl: str) -> None:
        check_impl(impl)
        self.impl = impl

    def __enter__(self) -> None:
        _impls.enter(self, self.impl)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _impls.leave(self)


class debug:  # called as a function, or used as: with debug(True):
    """Turn debug mode on or off, for the process or, in a ``with`` statement, for the block.

    Out-of-range labels raise ``ValueError`` on the CPU always. On a GPU finding them needs a
    synchronisation, so there the loss becomes NaN instead; in debug mode it raises as on the CPU.

    Args:
        enabled: Whether debug mode is on from now on.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = bool(enabled)
        self._before: bool | None = _debugs.base
        _debugs.set(self._enabled)

    def __enter__(self) -> None:
        if self._before is not None and _debugs.base == self._enabled:
            _debugs.set(self._before)  # for the block, not from now on
        self._before = None
        _debugs.enter(self, self._enabled)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _debugs.leave(self)


def debug_enabled() -> bool:
    """Whether debug mode is on."""
    return _debug


def transforms_active() -> bool:
    """Whether torch.func or forward mode is at work, for which kernels have no rules.

    Of forward mode a level that is entered is enough: to look for a tangent costs more.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def traced() -> bool:
    """Whether torch.jit.trace writes down operations."""
    return not torch.compiler.is_compiling() and torch._C._is_tracing()


def recorded() -> bool:
    """Whether torch writes down operations, to do them again with other numbers."""
    if traced():
        return True
    if not torch._C._len_torch_dispatch_stack():
        return False
    keys = torch._C._TorchDispatchModeKey
    return any(
        torch._C._get_dispatch_mode(key) is not None
        for key in (keys.FAKE, keys.FUNCTIONAL, keys.PROXY)
    )


def setting() -> str:
    """Return what ``impl="auto"`` means here and now."""
    return _default


def resolve(
    impl: str,
    candidates: tuple[str, ...],
    why_not: Callable[[str], str | None],
    input: Tensor | None = None,
) -> str:
    """Return the implementation to run.

    Args:
        impl: What the caller asked for.
        candidates: Kernels, and what else may serve, in order of preference for ``"auto"``.
        why_not: Returns the reason why a kernel cannot serve this call, None where it can.
        input: What the user passed in, of which size and device say whether to warn that plain
            PyTorch computes a large loss.

    Returns:
        ``"reference"`` or one of ``candidates``; of these, ``"scipy"`` only for ``"auto"``.

    Raises:
        ValueError: If ``impl`` names no implementation.
        RuntimeError: If it names a kernel that cannot serve this call.
    """
    check_impl(impl)
    impl = _default if impl == "auto" else impl
    if impl == "auto":
        impl = next((name for name in candidates if why_not(name) is None), "reference")
        if impl in ("reference", "scipy") and input is not None:
            _warn_if_pure(input)
        return impl
    if impl == "reference":
        return impl
    reason = why_not(impl)
    if reason is not None:
        raise RuntimeError(f"impl={impl!r} is not available here: {reason}")
    return impl


def _warn_if_pure(input: Tensor) -> None:
    if _C is None and not torch.compiler.is_compiling() and input.device.type == "cpu":
        warn_once(input.numel())
