"""Which cases are measured: all or small ones, and those of the devices that are here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import pytest
import torch


class Measurable(Protocol):
    """A case of any benchmark."""

    @property
    def name(self) -> str:
        """Its identifier."""

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda"``."""


Some = TypeVar("Some", bound=Measurable)


def devices(config: pytest.Config) -> list[str]:
    """Return the devices that are here, or the one that ``--device`` asks for, if it is here."""
    here = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [device for device in here if config.getoption("device") in (None, device)]


def parametrize(
    metafunc: pytest.Metafunc,
    cases: Sequence[Some],
    quick: Sequence[Some],
    contenders: Callable[[Some], Sequence[str]],
    modes: Sequence[str] = (),
) -> None:
    """Make tests of cases, contenders and modes, in which the contenders of a mode come together.

    Args:
        metafunc: Of a test with the arguments ``case``, ``contender`` and, with modes, ``mode``.
        cases: All.
        quick: Those of ``--quick``.
        contenders: Returns the names of a case's.
        modes: All, or none where there is but one.
    """
    config = metafunc.config
    chosen = quick if config.getoption("quick") else cases
    here = [case for case in chosen if case.device in devices(config)]
    each: list[tuple[str, ...]] = [(mode,) for mode in modes] or [()]
    tests, ids = [], []
    for case in here:
        for mode in each:
            for name in contenders(case):
                tests.append((case, name, *mode))
                ids.append("-".join([case.name, *mode, name]))
    arguments = ("case", "contender", *(["mode"] if modes else []))
    metafunc.parametrize(arguments, tests, ids=ids)
