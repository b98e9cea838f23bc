"""Runs the Triton kernel of region_masks without a GPU: interpreted, and compiled ahead.

Each in a process of its own: Triton decides at its first import whether it interprets.
"""

from __future__ import annotations

import importlib.util
import os

import pytest

from tests.conftest import ROOT, run_python

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="triton is not installed"
    ),
]


@pytest.mark.parametrize("part", ["interpreted", "compiled"])
def test_without_a_gpu(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    environ = {**os.environ, "TRITON_INTERPRET": "1"} if part == "interpreted" else {}
    path = f"tests/ops/region_masks_{part}.py"
    done = run_python("-m", "pytest", "-q", "-x", path, folder=ROOT, **environ)
    assert done.returncode == 0, done.stdout
