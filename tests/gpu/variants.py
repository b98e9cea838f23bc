"""Counts the kernels that Triton would compile, without a device."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest
import torch
from torch import Tensor

from segloss_fast import _native
from segloss_fast.ops._triton.launch import Launch

Variant = tuple[Hashable, ...]


def variant(launch: Launch) -> Variant:
    """Return what decides whether a launch needs a kernel of its own.

    The kernel and its constants; of tensors the dtype, and whether they begin at a multiple of 16
    bytes; of numbers that the kernel does not exempt whether they are 1, or multiples of 16.
    """
    kernel = launch.kernel
    parts: list[Hashable] = [f"{kernel.fn.__module__}.{kernel.fn.__name__}"]
    parts += sorted((name, str(value)) for name, value in launch.constants.items())
    parts += [launch.warps, launch.fusion]
    for parameter in kernel.params:
        value = launch.arguments.get(parameter.name)
        if isinstance(value, Tensor):
            parts.append((parameter.name, value.dtype, value.data_ptr() % 16 == 0))
        elif isinstance(value, int) and not parameter.do_not_specialize:
            parts.append((parameter.name, value == 1, value % 16 == 0))
    return tuple(parts)


def record_variants(monkeypatch: pytest.MonkeyPatch) -> set[Variant]:
    """Let calls with impl="triton" take tensors of the CPU and launch nothing.

    Returns:
        The kernels that would have been compiled; it grows. What the calls return says nothing,
        but that no label is out of range.
    """
    found: set[Variant] = set()
    instead_of_launching(monkeypatch, lambda launch: found.add(variant(launch)))
    return found


def instead_of_launching(monkeypatch: pytest.MonkeyPatch, note: Callable[[Launch], object]) -> None:
    """Let calls with impl="triton" take tensors of the CPU, and note what they would launch."""

    def launch(self: Launch) -> None:
        note(self)
        for name in ("invalid", "rows", "sums"):
            written = self.arguments.get(name)
            if isinstance(written, Tensor):
                written.fill_(name != "invalid")

    def nothing_in_the_way(primitive: str, device: torch.device) -> None:
        return None

    monkeypatch.setattr(Launch, "__call__", launch)
    monkeypatch.setattr(_native, "why_no_triton", nothing_in_the_way)
