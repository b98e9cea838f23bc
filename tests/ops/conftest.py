"""The machines of a primitive's contract."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
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


@pytest.fixture
def what_is_read_was_written(
    new_tensors_are_nan: None, monkeypatch: pytest.MonkeyPatch
) -> list[int]:
    """Let the interpreted kernels read no float64 that is NaN; return how many each load took.

    Sums are kept in float64, in memory that nobody cleared.
    """
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    load, taken = builder.create_masked_load, list[int]()

    def watched(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:  # noqa: ANN401
        found = load(self, pointers, mask, *rest)
        if found.data.dtype == np.float64:
            read = found.data[mask.data.astype(bool)]
            assert not np.isnan(read).any()
            taken.append(read.size)
        return found

    monkeypatch.setattr(builder, "create_masked_load", watched)
    return taken
