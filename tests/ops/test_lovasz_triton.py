"""Runs the tests of lovasz's Triton kernels under Triton's interpreter.

In a process of their own: Triton decides at its first import whether it interprets.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.ops.test_region_sums_triton import can_interpret

pytest.importorskip("triton")

pytestmark = pytest.mark.kernels


@can_interpret
@pytest.mark.parametrize("name", ["lovasz", "lovasz_limits", "lovasz_op"])
def test_interpreted(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", f"tests/ops/triton/interpreted_{name}.py"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
