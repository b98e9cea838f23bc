"""What the tests of a GPU rely on, tried without one."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from filelock import FileLock, Timeout

from tests.gpu import device
from tests.gpu.device import memory_alone, no_synchronisation


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return the modes that torch was set to, which warns as on a device: after it has set one."""
    found: list[object] = []

    def set_mode(mode: object) -> None:
        found.append(mode)
        warnings.warn(
            "Synchronization debug mode is a prototype feature", UserWarning, stacklevel=1
        )

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return found


def test_the_guard_against_waiting_does_not_stay_on(modes: list[object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with no_synchronisation():
            assert modes == ["error"]
    assert modes == ["error", "default"]


def test_the_guard_goes_off_where_the_host_has_waited(modes: list[object]) -> None:
    with pytest.raises(RuntimeError, match="synchronizing"), no_synchronisation():
        raise RuntimeError("called a synchronizing CUDA operation")
    assert modes == ["error", "default"]


def test_who_looks_at_the_memory_is_alone_until_it_is_given_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A lock on a file keeps out other processes, and here another one that opens it."""
    found: list[str] = []
    lock = tmp_path / "folder" / "lock"

    def another() -> str:
        try:
            with FileLock(lock, timeout=0):
                return "free"
        except Timeout:
            return "taken"

    monkeypatch.setattr(device, "LOCK", lock)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: found.append(f"emptied: {another()}"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (5, 7))
    with suppress(ZeroDivisionError), memory_alone() as free:
        found.append(f"{free} bytes: {another()}")
        raise ZeroDivisionError
    assert found == ["emptied: taken", "5 bytes: taken", "emptied: taken"]
    assert another() == "free"
