"""Which tests coverage follows of a run in which it looks on: enough to see every branch.

To follow costs time, see tests/suite/following.py: that of the many small functions of Triton's
interpreter and compiler, or of torch.compile, it more than doubles. The cases of one test mostly
take the same branches, so the first case of each of these tests is followed, some cases of each
other test, and those that are marked.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator

import pytest

from tests.suite import kinds
from tests.suite.following import following

followed = pytest.mark.followed
FOLLOWED = pytest.StashKey[set[str]]()
SLOW = (kinds.INTERPRETED, "compiled", "torch_compile", "shim")
CASES = 8  # of each other test, evenly spread over its parameters


def variables() -> dict[str, str]:
    """Return the variables by which coverage follows a new process."""
    return {k: v for k, v in os.environ.items() if k.startswith("COVERAGE_PROCESS")}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose the cases."""
    tests: dict[tuple[str, str], list[pytest.Item]] = {}  # machines have kinds of their own
    for item in items:
        tests.setdefault((item.nodeid.split("[")[0], kinds.kind_of(item)), []).append(item)
    chosen: set[str] = set()
    for (_, kind), cases in tests.items():
        number = 1 if kind in SLOW else CASES
        chosen.update(case.nodeid for case in cases[:: math.ceil(len(cases) / number)])
        chosen.update(case.nodeid for case in cases if case.get_closest_marker("followed"))
    config.stash[FOLLOWED] = chosen


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Look at these with their fixtures."""
    if item.nodeid not in item.config.stash[FOLLOWED]:
        return (yield)
    with following():
        return (yield)
