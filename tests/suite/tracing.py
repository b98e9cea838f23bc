"""What coverage follows of a run in which it looks on: enough to see every branch, in less time.

Up to Python 3.11 to follow the many small functions of Triton's interpreter and compiler, or of
torch.compile, more than doubles their time, and the cases of one test mostly take the same
branches: of each of these tests, the first case is followed, and others that are marked.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from coverage import Coverage

from tests.suite import kinds

followed = pytest.mark.followed
FOLLOWED = pytest.StashKey[set[str]]()
SLOW = (kinds.INTERPRETED, "compiled", "torch_compile", "shim")


def variables() -> dict[str, str]:
    """Return the variables by which coverage follows a new process."""
    return {k: v for k, v in os.environ.items() if k.startswith("COVERAGE_PROCESS")}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose the cases."""
    first: dict[str, str] = {}
    for item in items:
        first.setdefault(item.nodeid.split("[")[0], item.nodeid)
    config.stash[FOLLOWED] = set(first.values())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Look away from the other cases."""
    coverage = Coverage.current() if kinds.kind_of(item) in SLOW else None
    marked = item.get_closest_marker("followed") is not None
    if coverage is None or marked or item.nodeid in item.config.stash[FOLLOWED]:
        return (yield)
    coverage.stop()
    try:
        return (yield)
    finally:
        coverage.start()
