"""The tests of the native kernels themselves, in a build that watches addresses and arithmetic."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import Sandbox, run_python
from tests.sanitizers.test_sanitizers import runtime  # noqa: F401 # a fixture
from tests.suite.tiers import begins_in
from tests.suite.tree import copy_tree

pytestmark = [pytest.mark.sanitizers, begins_in("hand")]


def test_tests_of_the_operators(
    sanitized_sandbox: Sandbox,
    runtime: dict[str, str],  # noqa: F811
    tmp_path: Path,
) -> None:
    copy_tree(tmp_path)
    # A folder without __init__.py gives way to what is installed; setup.py reads the version.
    for path in (tmp_path / "segloss_fast").rglob("*"):
        if path.is_file() and path.name != "_version.py":
            path.unlink()
    shutil.rmtree(tmp_path / "build", ignore_errors=True)
    path = os.pathsep.join([str(sanitized_sandbox.site), *filter(None, sys.path)])
    options = ("--tier=test", "--impl=native", "-p", "no:cacheprovider", "-q", "-x")
    chosen = ("-m", "not (torch_compile or peers or install or compiled or shim)")
    done = run_python(
        *("-S", "-m", "pytest", *options, *chosen, "tests/ops", "-k", "native"),
        folder=tmp_path,
        PYTHONPATH=path,
        **runtime,
    )
    print(done.stdout[-3000:])
    assert done.returncode == 0, done.stdout[-3000:]
    assert "AddressSanitizer" not in done.stdout
