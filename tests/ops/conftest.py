"""The machines of a primitive's contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import machines
from tests.suite import kinds


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let the tests of a contract run on every machine of its primitive."""
    primitive = kinds.contract_of(metafunc.module.__name__.rpartition(".")[2])
    if primitive is not None and "machine" in metafunc.fixturenames:
        machines.parametrize(metafunc, primitive)


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[machines.Machine]:
    """The machine of the case, ready to run."""
    with request.param.prepared():
        yield request.param


@pytest.fixture
def small_tiles(machine: machines.Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small problems have several of everything."""
    machine.shrink_tiles(monkeypatch)


@pytest.fixture
def new_tensors_are_nan() -> Iterator[None]:
    """Fill new tensors with NaN (integers with their largest value): what no kernel wrote shows."""
    with machines.new_tensors_are_nan():
        yield
