"""Runs the programs of this folder that compile many kernels, once for all workers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import triton

from tests.suite import tracing
from tests.suite.built import once
from tests.suite.tree import ROOT

Report = dict[str, dict[str, Any]]


def reported(program: str, primitive: str) -> Report:
    """Return what a program says of a primitive's kernels: by name, what the tests look at."""
    ops = ROOT / "segloss_fast/ops"
    inputs = (ops / primitive, ops / "_triton", ops.parent / "_check.py", Path(__file__).parent)

    def build(folder: Path) -> None:
        # Not interpreted; and with a cache of its own, so that all of it is compiled here.
        hidden = {"TRITON_INTERPRET", *tracing.variables()}
        environ = {k: v for k, v in os.environ.items() if k not in hidden}
        environ["TRITON_CACHE_DIR"] = str(folder / "cache")
        command = [sys.executable, "-m", f"tests.ops.triton.{program}", str(folder / "report.json")]
        done = subprocess.run(
            command, cwd=ROOT, env=environ, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        shutil.rmtree(folder / "cache")

    folder = once(f"triton-{triton.__version__}-{primitive}", inputs, build)
    found: Report = json.loads((folder / "report.json").read_text())
    return found
