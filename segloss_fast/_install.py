"""Why an install has no native kernels, as its build wrote it down, and what repairs it."""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import sys
import warnings
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

PURE = Path(__file__).with_name("_pure.json")
OPTIONS = ("--no-cache-dir", "--force-reinstall", "--no-deps")  # pip may keep a pure wheel

LARGE = 2**16  # values of an input; below it nobody waits
_warned = False


@functools.cache
def _read() -> dict[str, str]:
    """Return what the build wrote down; nothing where the kernels were built, or nothing was."""
    found: dict[str, str] = json.loads(PURE.read_text()) if PURE.is_file() else {}
    return found


@functools.cache
def why_pure() -> str:
    """Return why there are no native kernels, and the command that installs them."""
    found = _read()
    if not found:
        return f"it runs from a source tree that was not built; run: {repair()}"
    reason = {
        "skip": "this install was made with SEGLOSS_BUILD=skip",
        "torch": "this install was built without torch",
        "compiler": "there was no C++ compiler when it was installed",
    }.get(found["kind"], "its native build failed")
    first = (
        "install one (Debian: apt-get install g++), then " if found["kind"] == "compiler" else ""
    )
    return f"{reason}; {first}run: {repair()}"


def warn_once(values: int) -> None:
    """Warn, once in a process, that PyTorch computes a large loss because the install is pure.

    Not if SEGLOSS_BUILD=skip asked for that.
    """
    global _warned
    if _warned or values <= LARGE:
        return
    _warned = True
    if _read().get("kind") != "skip":
        warnings.warn(
            "segloss_fast computes on the CPU in plain PyTorch, which is slow, because "
            f"{why_pure()}",
            RuntimeWarning,
            stacklevel=2,
        )


def details() -> str | None:
    """Return what the build said, None where it said nothing."""
    return _read().get("reason")


def repair() -> str:
    """Return the command that installs the package again, with native kernels or an error."""
    if not _has_pip():  # an environment of uv, which shows it by PATH alone
        path = shlex.quote(os.fspath(Path(sys.executable).parent))
        tool = f'PATH={path}:"$PATH" SEGLOSS_BUILD=require uv pip install'
        options = [
            "--python",
            shlex.quote(sys.executable),
            "--no-cache",
            "--reinstall",
            "--no-deps",
        ]
    else:
        tool = f"SEGLOSS_BUILD=require {_python()} -m pip install"
        options = list(OPTIONS)
    return " ".join((tool, *options, _source()))


def _has_pip() -> bool:
    # Not find_spec: setuptools takes the search for pip as a sign that it runs under it, and then
    # leaves the old distutils to whoever imports that later in this process.
    try:
        return distribution("pip") is not None
    except PackageNotFoundError:
        return False


def _python() -> str:
    """Return what starts this interpreter."""
    found = shutil.which("python")
    same = found is not None and Path(found) == Path(sys.executable)
    return "python" if same else shlex.quote(sys.executable)


def _source() -> str:
    """Return what this package was installed from, as pip takes it."""
    project = Path(__file__).parents[1]
    if (project / "setup.py").is_file():  # it runs from its source tree
        return f"--editable {shlex.quote(str(project))}"
    try:
        text = distribution("segloss_fast").read_text("direct_url.json")
    except PackageNotFoundError:
        text = None
    if text is None:
        return "segloss_fast"
    origin = json.loads(text)
    url = urlsplit(origin["url"])
    if url.scheme == "file":
        return shlex.quote(unquote(url.path))
    kind = origin.get("vcs_info", {}).get("vcs")
    return shlex.quote(f"{kind}+{origin['url']}" if kind else origin["url"])
