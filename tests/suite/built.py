"""What tests compile, made once for all workers of a run, and kept for the next one.

A build is found again by its name and the contents of what it was made from.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock

from tests.suite.tree import ROOT

CACHE = ROOT / "build" / "tests"
# All that native code for tests is made from; which file includes which is not looked at.
NATIVE = (
    *(ROOT / name for name in ("csrc", "setup.py", "segloss_fast/_version.py")),
    *(ROOT / "tests" / name for name in ("cuda_shim", "nvcc.py", "test_cuda_shim.py")),
    *sorted((ROOT / "tests/ops").glob("*.c*")),  # C++ and CUDA
    *sorted((ROOT / "tests/ops").glob("*_cuda.py")),
    *sorted((ROOT / "tests/ops").glob("*_shim.py")),
)
PACKAGE = (*(ROOT / name for name in ("csrc", "segloss_fast", "setup.py", "pyproject.toml")),)
CODE = {".py", ".cpp", ".cu", ".cuh", ".h", ".inc"}


def once(name: str, inputs: Iterable[Path], build: Callable[[Path], object]) -> Path:
    """Return a folder that ``build`` filled.

    The first process that asks builds; others wait for it. Earlier builds of the name go.

    Args:
        name: Of the build.
        inputs: Files, and folders whose code files count.
        build: Fills the folder that it is given, in which nothing else is.
    """
    folder = CACHE / f"{name}-{digest(tuple(inputs))}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / f"{name}.lock"):
        done = folder / ".done"
        if not done.exists():
            for old in CACHE.glob(f"{name}-" + "?" * len(digest(()))):
                shutil.rmtree(old)
            folder.mkdir()
            build(folder)
            done.touch()
    return folder


def write_quick_compiler(program: Path) -> None:
    """Write a C++ compiler that keeps what it compiled (tests/suite/cached_cxx.py).

    Quickly, without optimisation: for tests of installs, which do not look at the kernels.
    """
    folders = [CACHE / f"objects-{digest(NATIVE)}", *_own_objects()]
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    program.write_text(
        # -I -S: a build starts it some fifty times, and site-packages may hold a slow start.
        f"#!{sys.executable} -IS\nimport sys\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(ROOT)!r})\nfrom tests.suite.cached_cxx import main\n"
        f"main({compiler!r}, [Path(name) for name in {[str(path) for path in folders]}], ['-O0'])\n"
    )
    program.chmod(0o755)


def _own_objects() -> list[Path]:
    """Return the folder of this tree's object files, if it was built as it is, and plainly."""
    from setup import CXX_FLAGS  # not where it takes time: with every test

    build = ROOT / "build" / f"temp.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    csrc = ROOT / "csrc"
    files = [ROOT / "setup.py", *(path for path in csrc.rglob("*") if path.suffix in CODE)]
    newest = max(path.stat().st_mtime for path in files)
    sources = (path.relative_to(ROOT) for path in files if path.suffix == ".cpp")
    objects = [build / source.with_suffix(".o") for source in sources]
    plan = build / "build.ninja"
    plain = plan.exists() and f'="{" ".join(CXX_FLAGS)}"' in plan.read_text()
    current = all(path.exists() and path.stat().st_mtime > newest for path in objects)
    return [build / "csrc"] if plain and current else []


@cache
def digest(inputs: tuple[Path, ...]) -> str:
    """Return a digest of the inputs' contents, the compilers and torch."""
    found = hashlib.sha256(f"{torch.__version__} {_compilers()}".encode())
    for path in inputs:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.suffix in CODE or file == path:
                found.update(f"{file.relative_to(ROOT)} ".encode())
                found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()[:16]


@cache
def _compilers() -> str:
    """Return the versions of the compilers that there are, and what flags the user adds."""
    said = [os.environ.get(name, "") for name in ("CXX", "CXXFLAGS")]
    for command in (os.environ.get("CXX", "c++"), "nvcc", "/usr/local/cuda/bin/nvcc"):
        if shutil.which(command) is not None:
            done = subprocess.run([command, "--version"], capture_output=True, text=True)
            said.append(done.stdout)
    return "\n".join(said)
