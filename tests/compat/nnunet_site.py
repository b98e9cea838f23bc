"""An environment with nnU-Net, beside that of the tests, which never has it.

As a program it makes the environment, so that no test waits for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.suite.built import once
from tests.suite.tiers import chosen
from tests.suite.tree import ROOT

REQUIREMENTS = Path(__file__).with_name("nnunet_requirements.txt")
# The networks' library imports timm, which imports torchvision, whose builds on PyPI are for CUDA:
# beside a torch for CPUs their operators are missing, and importing them fails where these are not
# declared. No test calls them.
START = '''"""Runs at the start of every process of this environment."""
import sys


class _Torchvision:
    """Declares torchvision's operators when it is about to be imported."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            import torch

            sys.meta_path.remove(self)
            boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            if not torch.version.cuda:
                for operator in ("nms", "qnms"):
                    torch.library.define(f"torchvision::{operator}", boxes)


sys.meta_path.insert(0, _Torchvision())
'''


def found() -> Path | None:
    """Return the folder that nnU-Net is in; the tier "all" makes it, others look for it."""
    if chosen() in ("all", "hand"):
        return made()
    folders = sorted((ROOT / "build" / "tests").glob("nnunet-*/site"))
    return folders[-1] if folders and (folders[-1].parent / ".done").exists() else None


def made() -> Path:
    """Return the folder that nnU-Net is in, installed by the first process that asks."""
    return once("nnunet", (REQUIREMENTS, Path(__file__)), _install) / "site"


def _install(folder: Path) -> None:
    minor = int(torch.__version__.split(".")[1])
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    command += ["--disable-pip-version-check", "--target", str(folder / "site")]
    command += ["--requirement", str(REQUIREMENTS), f"torchvision==0.{minor + 15}.*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "site" / "sitecustomize.py").write_text(START)


def run(*arguments: str, timeout: float, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run an interpreter that finds nnU-Net, and the package under test."""
    path = os.pathsep.join([str(made()), str(ROOT)])
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path, "MPLBACKEND": "agg", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )


if __name__ == "__main__":
    made()
