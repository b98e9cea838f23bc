"""Installs the package under other Pythons, torches and compilers, and runs the quick tests there.

python -m tests.install_matrix [--only NAME ...] [--again] [--clean] [--publish]

By hand: each row is an environment below build/matrix, most with a torch of their own, which from
a package index is a build for CUDA of gigabytes; uv downloads what several rows need once. A row
that has no build of its own takes the wheel of another row, which tells whether one binary serves
several versions of torch. What happened is kept in build/matrix/results.json, row by row, and
--publish writes it to docs/robustness.md, where other rows stay as they are. Of what is several
gigabytes --clean leaves the wheel alone.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType

from tests.suite.tree import ROOT, copy_tree
from tests.test_install_paths import interpreter

MATRIX = ROOT / "build" / "matrix"
RESULTS = MATRIX / "results.json"
PAGE = ROOT / "docs" / "robustness.md"
BEGIN, END = "<!-- installs:begin -->\n", "<!-- installs:end -->\n"
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
NEWEST = next((f"3.{n}" for n in range(14, 10, -1) if interpreter(f"3.{n}") is not None), HERE)


@dataclass(frozen=True)
class Row:
    """An environment.

    Attributes:
        python: The version of its interpreter.
        torch: What is asked of the index; None for the torch, and all else, of this environment.
        compiler: ``"gcc"``, ``"clang"``, or ``"none"`` for a pure-Python package.
        wheel_of: The row whose wheel it takes; None if it builds its own.
    """

    python: str = HERE
    torch: str | None = None
    compiler: str = "gcc"
    wheel_of: str | None = None


ROWS = {
    "here": Row(),
    "pure": Row(compiler="none"),
    "clang": Row(compiler="clang"),
    "oldest-torch": Row(torch="torch==2.10.0", wheel_of="here"),
    "newest-torch": Row(torch="torch", wheel_of="here"),
    "oldest-python": Row(python="3.10", torch="torch==2.10.0"),
    "newest-python": Row(python=NEWEST, torch="torch"),
}


@dataclass
class Outcome:
    """What a row came to; a cell of the table each."""

    python: str
    torch: str
    package: str
    warnings: str
    tests: str
    date: str


CELLS = [each.name for each in fields(Outcome)]


class Failed(Exception):
    """A step of a row failed; the message says which, and where its output is."""


class Missing(Exception):
    """What a row needs is not on this machine, which says nothing about the package."""


class Attempt:
    """One row, tried in a folder of its own."""

    def __init__(self, name: str, row: Row) -> None:
        self.row = row
        self.folder = MATRIX / name
        self.python = str(self.folder / "venv/bin/python")

    def run(
        self,
        step: str,
        *command: str,
        folder: Path = ROOT,
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """Run a step, with what it says in a file; return that."""
        hidden = {"PYTHONPATH", "SEGLOSS_BUILD", "VIRTUAL_ENV"}
        outside = {name: value for name, value in os.environ.items() if name not in hidden}
        print(f"{self.folder.name}: {step}", flush=True)
        log = self.folder / f"{step}.txt"
        with log.open("w") as said:
            done = subprocess.run(
                command,
                cwd=folder,
                env={**outside, **environ},
                stdout=said,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode != 0:
            raise Failed(f"{step} failed, see {log.relative_to(ROOT)}")
        return log.read_text()

    def uv(
        self, step: str, *arguments: str, environ: Mapping[str, str] = MappingProxyType({})
    ) -> str:
        program = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
        return self.run(step, program, *arguments, environ=environ)

    def make_environment(self) -> None:
        python = sys.executable if self.row.python == HERE else interpreter(self.row.python)
        if python is None:
            raise Missing(f"there is no Python {self.row.python} here")
        compiler(self.row.compiler)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        venv = str(self.folder / "venv")
        environ = {"UV_PYTHON_DOWNLOADS": "never"}
        self.uv("venv", "venv", "--python", python, venv, environ=environ)
        if self.row.torch is None:  # a path alone: what is installed editable is not found by it
            (site,) = self.folder.glob("venv/lib/python*/site-packages")
            (site / "tests.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
            return
        extra = self.run("extra", python, "scripts/extra.py", "test").split()
        into = ("pip", "install", "--python", self.python)
        self.uv("requirements", *into, self.row.torch, "numpy", *extra)
        self.uv("smp", *into, "--no-deps", "segmentation-models-pytorch==0.6.0")

    def build(self) -> str:
        """Build a wheel, in a folder of its own; return how many warnings the compiler gave."""
        copy_tree(self.folder / "source")
        environ = {"SEGLOSS_BUILD": "require", "SEGLOSS_CUDA": "0", **compiler(self.row.compiler)}
        if self.row.compiler == "none":
            environ["SEGLOSS_BUILD"] = "skip"
        where = ("--python", self.python, "--out-dir", str(self.folder / "wheels"))
        command = ("build", "--wheel", "--no-build-isolation", *where)
        said = self.uv("build", *command, str(self.folder / "source"), environ=environ)
        return str(len(re.findall(r"^\S*csrc/\S+: warning:", said, re.MULTILINE)))

    def install(self) -> str:
        """Install the wheel; return what the package says of itself."""
        origin = MATRIX / (self.row.wheel_of or self.folder.name)
        (wheel,) = (origin / "wheels").glob("*.whl")
        self.uv("install", "pip", "install", "--python", self.python, "--no-deps", str(wheel))
        said = self.run("verdict", self.python, "-m", "segloss_fast", "-v", folder=self.folder)
        native = re.search(r"^native module: (.+?), LibTorch", said, re.MULTILINE)
        assert (native is None) == (self.row.compiler == "none"), said
        if native is None:
            return "pure Python"
        return f"native, {native[1]}" + (
            ", the wheel of the first row" if self.row.wheel_of else ""
        )

    def test(self) -> str:
        """Run the quick tests on what was installed; return their numbers."""
        tree = self.folder / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        copy_tree(tree)
        # No package, only what setup.py reads: such a folder gives way to what is installed.
        for path in (tree / "segloss_fast").rglob("*"):
            if path.is_file() and path.name != "_version.py":
                path.unlink()
        command = ("-m", "pytest", "--tier=quick", "-q", "-p", "no:cacheprovider")
        said = self.run("tests", self.python, *command, folder=tree)
        found = re.findall(r"^(\d+ passed.*) in \d", said, re.MULTILINE)
        return str(found[-1]).replace(" deselected", " left to other tiers")

    def version(self, module: str) -> str:
        code = f"import {module}; print({module}.__version__)"
        return self.run(f"version-{module}", self.python, "-c", code).strip()


def compiler(name: str) -> dict[str, str]:
    """Return the variables that choose a compiler."""
    if name == "none":
        return {}
    cc, cxx = ("gcc", "g++") if name == "gcc" else ("clang", "clang++")
    for suffix in ("", *(f"-{version}" for version in range(30, 13, -1))):
        if shutil.which(cxx + suffix) is not None:
            return {"CC": cc + suffix, "CXX": cxx + suffix}
    raise Missing(f"there is no {cxx} here")


def attempt(name: str, before: dict[str, str] | None) -> Outcome:
    """Try a row, or its tests alone on what was installed before.

    What it could not do is said in the last cell.
    """
    one = Attempt(name, ROWS[name])
    found = Outcome(one.row.python, one.row.torch or "", "", "", "", "")
    start = time.monotonic()
    try:
        if before is None:
            one.make_environment()
            code = "import platform; print(platform.python_version())"
            found.python = one.run("version-python", one.python, "-c", code).strip()
            found.torch = one.version("torch")
            if one.row.wheel_of is None:
                found.warnings = one.build()
            found.package = one.install()
        else:
            found = Outcome(**before)
        found.date = f"{datetime.date.today()}"
        found.tests = one.test()
    except Failed as error:
        found.tests = f"**{error}**"
    print(f"{name}: {found} ({time.monotonic() - start:.0f} s)", flush=True)
    return found


def tried() -> dict[str, dict[str, str]]:
    """Return the outcomes here so far, by row."""
    found: dict[str, dict[str, str]] = {}
    if RESULTS.exists():
        found = json.loads(RESULTS.read_text())
    return found


def published(page: str) -> dict[str, dict[str, str]]:
    """Return the outcomes that a page has, by row."""
    found = {}
    for line in page.partition(BEGIN)[2].partition(END)[0].splitlines()[2:]:
        row, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        found[row] = dict(zip(CELLS, cells, strict=True))
    return found


def table(results: dict[str, dict[str, str]]) -> str:
    """Return what is published."""
    lines = [
        "| row | Python | torch | the package | warnings of its compiler | quick tests | on |",
        "|---|---|---|---|--:|---|---|",
    ]
    for row in ROWS:
        if row in results:
            lines.append(f"| {row} | {' | '.join(results[row][name] for name in CELLS)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Try the rows; return 1 if one failed or could not be tried."""
    parser = argparse.ArgumentParser(prog="python -m tests.install_matrix", description=__doc__)
    parser.add_argument("--only", nargs="*", metavar="NAME", help=f"of {', '.join(ROWS)}, or none")
    parser.add_argument("--again", action="store_true", help="only the tests, as it was installed")
    parser.add_argument("--clean", action="store_true", help="remove each environment in the end")
    parser.add_argument("--publish", action="store_true", help="write the table to the page")
    chosen = parser.parse_args()
    names = tuple(ROWS) if chosen.only is None else chosen.only
    unknown = sorted(set(names) - set(ROWS))
    if unknown:
        parser.error(f"--only takes {', '.join(ROWS)}, got {', '.join(unknown)}")
    MATRIX.mkdir(parents=True, exist_ok=True)
    missing = False
    for name in names:
        before = tried().get(name) if chosen.again else None
        try:
            outcome = asdict(attempt(name, before))
        except Missing as error:
            print(f"{name}: {error}", flush=True)
            missing = True
            continue
        results = tried()  # others may have been tried meanwhile
        RESULTS.write_text(json.dumps({**results, name: outcome}, indent=1))
        for folder in ("venv", "source", "tree") if chosen.clean else ():
            shutil.rmtree(MATRIX / name / folder, ignore_errors=True)
    page = PAGE.read_text()
    text = table({**published(page), **tried()})
    print(text)
    if chosen.publish:
        head, _, rest = page.partition(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}{text}{END}{rest.partition(END)[2]}")
    return int(missing or "**" in text)


if __name__ == "__main__":
    sys.exit(main())
