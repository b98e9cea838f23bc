"""The ways in which people install the package, each for real, and what each of them gives.

Written as a table to build/install_paths.md as the tests run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.suite import tracing
from tests.suite.built import write_quick_compiler
from tests.suite.tree import ROOT, copy_tree

pytestmark = pytest.mark.install

USE = """
import torch, segloss_fast
x = torch.randn(2, 3, 5, 7, requires_grad=True)
segloss_fast.DiceCELoss()(x, torch.randint(3, (2, 5, 7))).backward()
assert x.grad.count_nonzero() == x.numel()
"""
VERDICT = "import runpy; runpy.run_module('segloss_fast', run_name='__main__')\n"
NATIVE, NO_TORCH, NO_COMPILER = "CPU: all operators in C++", "without torch", "no C++ compiler"


@dataclass
class Environment:
    """A virtual environment, and a copy of the source tree to install.

    Attributes:
        folder: What the environment lies in.
        source: The copy.
        torch: Whether the environment has torch, which is that of the tests.
        compiler: Whether there is one.
    """

    folder: Path
    source: Path
    torch: bool = True
    compiler: bool = True

    def __post_init__(self) -> None:
        command = [sys.executable, "-m", "venv", "--without-pip", str(self.folder)]
        subprocess.run(command, check=True)
        (site,) = self.folder.glob("lib/python*/site-packages")
        ours = Path(sysconfig.get_path("purelib"))
        for part in (ours / "pip", *ours.glob("pip-*.dist-info")):  # venv would take seconds
            shutil.copytree(part, site / part.name)
        if self.torch:  # a path alone: what the tests install editable is not found through it
            (site / "tests.pth").write_text(f"{ours}\n")
        copy_tree(self.source)

    @property
    def python(self) -> str:
        """The interpreter."""
        return str(self.folder / "bin/python")

    def run(self, *command: str, **environ: str) -> str:
        """Run a command as somebody who activated the environment; return what it said."""
        hidden = {"SEGLOSS_BUILD", "PYTHONPATH", "VIRTUAL_ENV", *tracing.variables()}
        outside = {k: v for k, v in os.environ.items() if k not in hidden}
        path = os.pathsep.join([str(self.folder / "bin"), "/usr/bin", "/bin"])
        program = self.folder / "c++"
        if self.compiler:
            write_quick_compiler(program)
        else:
            path = str(self.folder / "bin")
        options = {"PATH": path, "CXX": str(program), "VIRTUAL_ENV": str(self.folder), **environ}
        done = subprocess.run(
            command,
            cwd=self.source,
            env={**outside, **options},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def verdict(self) -> str:
        """Return the first line of ``python -m segloss_fast``, and use the package."""
        if not self.torch:
            (site,) = self.folder.glob("lib/python*/site-packages")
            (site / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")  # installed later
        shutil.rmtree(self.source / "segloss_fast")  # what runs is what was installed
        return self.run(self.python, "-c", VERDICT + USE).splitlines()[0]


def pip(*options: str) -> list[str]:
    return ["python", "-m", "pip", "install", "--no-deps", *options]


def uv(*options: str) -> list[str]:
    """As in an activated environment; uv itself is that of the tests."""
    return [str(Path(sys.executable).with_name("uv")), "pip", "install", "--no-deps", *options]


def build(*options: str) -> list[str]:
    """By ``python -m build`` of the tests, in the environment that VIRTUAL_ENV names."""
    return [sys.executable, "-m", "build", "--outdir", "dist", *options, "."]


# Not what is found through the path to the packages of the tests.
BUILT = pip("--ignore-installed", "--no-index", "--find-links", "dist", "segloss_fast")
# What the user types; the commands, the last of which installs; torch and compiler; what it gives.
PATHS = [
    ("pip install .", [pip(".")], True, True, NATIVE),
    ("pip install . (no torch)", [pip(".")], False, True, NO_TORCH),
    ("pip install . (no compiler)", [pip(".")], True, False, NO_COMPILER),
    ("pip install --no-build-isolation .", [pip("--no-build-isolation", ".")], True, True, NATIVE),
    ("uv pip install .", [uv(".")], True, True, NATIVE),
    (
        "uv pip install --no-build-isolation .",
        [uv("--no-build-isolation", ".")],
        True,
        True,
        NATIVE,
    ),
    ("python -m build (sdist, and the wheel from it)", [build(), BUILT], True, True, NATIVE),
    ("python -m build --wheel (no torch)", [build("--wheel"), BUILT], False, True, NO_TORCH),
]


@pytest.mark.parametrize(
    ("path", "commands", "torch", "compiler", "gives"), PATHS, ids=[row[0] for row in PATHS]
)
def test_path(
    tmp_path: Path, path: str, commands: list[list[str]], torch: bool, compiler: bool, gives: str
) -> None:
    if compiler and shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    environment = Environment(tmp_path / "env", tmp_path / "source", torch, compiler)
    for command in commands:
        environment.run(*command)
    verdict = environment.verdict()
    assert gives in verdict, verdict
    (site,) = environment.folder.glob("lib/python*/site-packages")
    (wheel,) = site.glob("segloss_fast-*.dist-info/WHEEL")
    assert ("py3-none-any" in wheel.read_text()) == (gives != NATIVE)
    record(path, verdict.replace(str(tmp_path), "..."))


def test_a_native_build_that_is_required_says_where_it_looked_for_torch(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "env", tmp_path / "source", torch=False)
    with pytest.raises(AssertionError) as error:
        environment.run(*pip("."), SEGLOSS_BUILD="require")
    said = str(error.value)
    assert "SEGLOSS_BUILD=require, but no torch to build against was found; looked at " in said
    assert f"{environment.python} (has no torch)" in said


def record(path: str, verdict: str) -> None:
    """Append a row to the table."""
    table = ROOT / "build/install_paths.md"
    table.parent.mkdir(exist_ok=True)
    with table.open("a") as file:
        file.write(f"| `{path}` | {verdict} |\n")


OTHERS = [f"3.{minor}" for minor in range(10, 15) if minor != sys.version_info[1]]


# Without torch, but every file: what a newer Python warns of is an error in a later one.
COMPILE = """
import pathlib
paths = sorted(pathlib.Path().rglob("*.py"))
for path in paths:
    compile(path.read_text(), str(path), "exec")
print("compiled" if len(paths) > 400 else paths)
"""


@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_other_pythons_get_a_pure_package_without_their_torch(tmp_path: Path, which: str) -> None:
    """Not the torch of another Python, which they could not load."""
    found = ((interpreter(one), one) for one in (OTHERS if which == "oldest" else OTHERS[::-1]))
    python, version = next((pair for pair in found if pair[0] is not None), (None, ""))
    if python is None:
        pytest.skip("no other Python here")
    copy_tree(tmp_path / "source")
    command = [python, "-m", "pip", "wheel", "--no-deps", "-w", str(tmp_path), "."]
    outside = {k: v for k, v in os.environ.items() if k not in ("SEGLOSS_BUILD", "PYTHONPATH")}
    done = subprocess.run(
        command,
        cwd=tmp_path / "source",
        env={**outside, "VIRTUAL_ENV": sys.prefix},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    record(f"pip wheel . (Python {version}, no torch)", "a pure-Python wheel")
    command = [python, "-W", "error", "-c", COMPILE]
    done = subprocess.run(command, cwd=tmp_path / "source", capture_output=True, text=True)
    assert done.stdout.strip() == "compiled", done.stdout + done.stderr


def interpreter(version: str) -> str | None:
    """Return a Python of this version that runs."""
    roots: Sequence[Path] = [Path(sys.base_prefix).parent]
    found = [path for root in roots for path in root.glob(f"{version}.*/bin/python")]
    for candidate in (shutil.which(f"python{version}"), *map(str, found)):
        if candidate is None:
            continue
        done = subprocess.run(
            [candidate, "-m", "pip", "--version"], capture_output=True, check=False
        )
        if done.returncode == 0:
            return candidate
    return None
