"""Runs Triton kernels without a GPU: interpreted, and compiled ahead.

Each in a process of its own: Triton decides at its first import whether it interprets. Those of
region_sums and lovasz are in test_region_sums_triton.py, test_lovasz_triton.py and their siblings.
"""

from __future__ import annotations

import importlib.util

import pytest

from tests.conftest import ROOT, run_python

pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="triton is not installed"
    ),
]

PRIMITIVES = (
    "confusion_sums",
    "distance_transform",
    "hardest_voxels",
    "region_masks",
    "soft_skeleton",
    "structural_error",
)


@pytest.mark.parametrize("part", ["interpreted", "compiled"])
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_triton(primitive: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    environ = {"TRITON_INTERPRET": "1"} if part == "interpreted" else {}
    path = f"tests/ops/{primitive}_{part}.py"
    done = run_python("-m", "pytest", "-q", "-x", path, folder=ROOT, **environ)
    assert done.returncode == 0, done.stdout
