"""Runs the Triton kernels of distance_transform without a GPU: interpreted, and compiled ahead.

Each in a process of its own: Triton decides at its first import whether it interprets.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="triton is not installed"
    ),
]


@pytest.mark.parametrize("part", ["interpreted", "compiled"])
def test_without_a_gpu(part: str) -> None:
    environ = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    if part == "interpreted":
        environ["TRITON_INTERPRET"] = "1"
    path = f"tests/ops/distance_transform_{part}.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", path],
        cwd=ROOT,
        env=environ,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
