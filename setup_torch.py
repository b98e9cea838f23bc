"""Finds the torch to build against where the build itself cannot import one: for setup.py.

pip, uv and `python -m build` run setup.py in an environment made for the build, which holds no
torch. The one to build against is that of the environment which will use the package. Nothing is
ever downloaded: an environment without torch gets a package without native kernels.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NEEDED = (2, 10)
# Asked of other interpreters. Finding torch does not import it, which would take seconds.
QUESTION = """
import importlib.metadata, importlib.util, json, sys, sysconfig
def torch():
    if importlib.util.find_spec("torch") is None:
        return None
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return "0"
print(json.dumps([sys.implementation.cache_tag, sysconfig.get_platform(), torch(), sys.path]))
"""


class NoTorch(ImportError):
    """There is no torch to build against; the message says where it was looked for."""


def make_importable() -> None:
    """Make ``import torch`` find one to build against.

    Raises:
        NoTorch: If there is none of version 2.10 or later.
    """
    if find_spec("torch") is not None:
        return  # not isolated
    looked = []
    for interpreter in interpreters():
        found = ask(interpreter)
        reason = why_not(found)
        if reason is None:
            # Behind what the build environment has: its setuptools stays the one that builds.
            sys.path += [path for path in found[3] if path and path not in sys.path]
            return
        looked.append(f"{interpreter} ({reason})")
    raise NoTorch(f"no torch to build against was found; looked at {', '.join(looked)}")


def interpreters() -> Iterator[Path]:
    """Yield the interpreters whose environment may be the one that is installed into.

    pip's builds run by the interpreter of that environment; those of `python -m build` and of uv
    do not, and show it by VIRTUAL_ENV or by PATH alone.
    """
    names = ["python", "python3", f"python{sys.version_info[0]}.{sys.version_info[1]}"]
    folder = "Scripts" if os.name == "nt" else "bin"
    suffix = ".exe" if os.name == "nt" else ""
    candidates = [Path(sys.executable)]
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        prefix = os.environ.get(variable)
        if prefix:
            candidates += [
                Path(prefix) / folder / f"python{suffix}",
                Path(prefix) / f"python{suffix}",
            ]
    for path in os.environ.get("PATH", "").split(os.pathsep):
        candidates += [Path(path) / f"{name}{suffix}" for name in names if path]
    # Not resolved: the interpreter of an environment is a link to that of another.
    for candidate in dict.fromkeys(candidates):
        if candidate.is_file():
            yield candidate


def ask(interpreter: Path) -> Any:  # noqa: ANN401
    """Return an interpreter's tag, platform, version of torch and path; None without an answer."""
    # Without what pip sets to hide the environment's own packages, and the user's.
    hidden = ("PYTHONPATH", "PYTHONNOUSERSITE", "PYTHONHOME")
    environ = {name: value for name, value in os.environ.items() if name not in hidden}
    try:
        done = subprocess.run(
            [str(interpreter), "-c", QUESTION],
            env=environ,
            cwd=interpreter.parent,  # a folder torch/ in the current one is not it
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def why_not(found: Any) -> str | None:  # noqa: ANN401
    """Return why an interpreter's torch cannot be built against, None where it can."""
    if found is None:
        return "does not run"
    tag, platform, version, _ = found
    if (tag, platform) != (sys.implementation.cache_tag, sysconfig.get_platform()):
        return f"is {tag} for {platform}"
    if version is None:
        return "has no torch"
    numbers = tuple(int(number) for number in version.split("+")[0].split(".")[:2])
    needed = ".".join(map(str, NEEDED))
    return f"has torch {version}, {needed} is needed" if numbers < NEEDED else None
