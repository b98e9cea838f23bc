"""Which tests coverage follows of a run in which it looks on: enough to see every branch.

To follow costs time, see tests/suite/following.py: that of the many small functions of Triton's
interpreter and compiler, or of torch.compile, it more than doubles. The cases of one test mostly
take the same branches, so the first case of each of these tests is followed, some cases of each
other test, as many of those that begin in the tier "all", and those that are marked.
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
    # Machines have kinds of their own, and cases of the last tier may be of other branches.
    tests: dict[tuple[str, str, bool], list[pytest.Item]] = {}
    for item in items:
        late = any(mark.args == ("all",) for mark in item.iter_markers("tier"))
        test = item.nodeid.split("[")[0], kinds.kind_of(item), late
        tests.setdefault(test, []).append(item)
    chosen: set[str] = set()
    for (_, kind, _), cases in tests.items():
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
