"""Records how long each test takes, for scripts/test_durations.py: hooks of pytest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.suite import kinds


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the file."""
    parser.getgroup("segloss_fast").addoption(
        "--durations-to", type=Path, metavar="FILE", help="append a line of JSON for each test"
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let a test's reports carry its kind, also from a worker to the controlling process."""
    item.user_properties.append(("kind", kinds.kind_of(item)))


class Recorder:
    """Appends a line for each phase of a test, as it ends: a run that is cut off leaves them."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a", buffering=1)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write the phase."""
        kind = dict(report.user_properties).get("kind", "auto")
        line = {"test": report.nodeid, "kind": kind, "phase": report.when}
        self.file.write(json.dumps({**line, "seconds": round(report.duration, 4)}) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    """Record in the process that sees all reports."""
    path = config.getoption("--durations-to")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(path.resolve()))
