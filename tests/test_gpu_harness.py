"""What the tests of a GPU rely on, tried without one."""

from __future__ import annotations

import warnings

import pytest
import torch

from tests.gpu.device import no_synchronisation


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
