"""Everything in this folder needs a CUDA device; without one it is left out (tests/suite)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gpu.device import memory_alone

HERE = Path(__file__).parent


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the folder's tests."""
    if HERE in item.path.parents:
        item.add_marker("gpu")


@pytest.fixture
def free_memory() -> Iterator[int]:
    """Return the device's free bytes, and let no other test with this fixture run meanwhile."""
    with memory_alone() as found:
        yield found
