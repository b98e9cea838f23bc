"""Everything in this folder needs a CUDA device; without one it is left out (tests/suite)."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the folder's tests."""
    if HERE in item.path.parents:
        item.add_marker("gpu")
