"""Runs the tests of the Triton kernels under Triton's interpreter, in a process of their own.

Triton decides at its first import whether it interprets, and other tests import it too.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_interpreted() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/ops/triton_interpreted.py"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
