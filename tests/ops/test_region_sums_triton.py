"""Runs the tests of the Triton kernels under Triton's interpreter, in a process of their own.

Triton decides at its first import whether it interprets, and other tests import it too.
"""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT

triton = pytest.importorskip("triton")


pytestmark = pytest.mark.kernels


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])


can_interpret = pytest.mark.skipif(
    version(triton.__version__) < (3, 7) and version(np.__version__) >= (2, 4),
    reason="this Triton's interpreter takes the int of arrays of one value, which NumPy refuses",
)


@can_interpret
@pytest.mark.parametrize("name", ["interpreted", "interpreted_limits", "interpreted_op"])
def test_interpreted(name: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", f"tests/ops/triton/{name}.py"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
