"""Compiles the many kernels of a sample in this folder, once for all workers."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import triton

from tests.suite.built import once
from tests.suite.following import looking_away
from tests.suite.tree import ROOT

Report = dict[str, dict[str, Any]]


def reported(sample: str, primitive: str) -> Report:
    """Return what a module says of a primitive's kernels: by name, what the tests look at.

    Not in a process of its own, which would import torch and Triton once more. Coverage has
    nothing to see: kernels are read, not run, and it would double the time.
    """
    ops = ROOT / "segloss_fast/ops"
    inputs = (ops / primitive, ops / "_triton", ops.parent / "_check.py", Path(__file__).parent)

    def build(folder: Path) -> None:
        module = import_module(f"tests.ops.triton.{sample}")
        with pytest.MonkeyPatch.context() as patches, looking_away():
            # Empty, so that all of it is compiled here.
            patches.setenv("TRITON_CACHE_DIR", str(folder / "cache"))
            found = module.report()
        (folder / "report.json").write_text(json.dumps(found))

    folder = once(f"triton-{triton.__version__}-{primitive}", inputs, build)
    kept: Report = json.loads((folder / "report.json").read_text())
    return kept
