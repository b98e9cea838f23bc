"""Which tests under Triton's interpreter coverage follows.

Up to Python 3.11 to follow the interpreter's many small functions more than doubles their time, and
the cases of one test mostly take the same branches: of each test, the first case is followed, and
others that are marked.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest
from coverage import Coverage

from tests.suite import kinds

followed = pytest.mark.followed
FOLLOWED = pytest.StashKey[set[str]]()


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
    coverage = Coverage.current() if kinds.interpreting() else None
    marked = item.get_closest_marker("followed") is not None
    if coverage is None or marked or item.nodeid in item.config.stash[FOLLOWED]:
        return (yield)
    coverage.stop()
    try:
        return (yield)
    finally:
        coverage.start()
