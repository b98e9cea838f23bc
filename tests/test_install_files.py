"""What is packed, and that old and new Pythons can read it."""

from __future__ import annotations

import ast
import re
import subprocess
import tarfile

import pytest

from tests.conftest import Sandbox, run_python
from tests.suite.tiers import begins_in
from tests.suite.tree import ROOT

# Beside the package and the native code: what a build reads, and what tells of it.
PACKED = {
    *("setup.py", "setup_torch.py", "pyproject.toml", "MANIFEST.in", "constraints.txt"),
    *("README.md", "CHANGELOG.md", "LICENSE"),
}
# What setuptools adds.
MADE = re.compile(r"(PKG-INFO|setup\.cfg|segloss_fast\.egg-info(/.+)?)")
SDIST = "from setuptools import build_meta; print(build_meta.build_sdist('dist'))"
INCLUDE = re.compile(r'^\s*#\s*include "([^"]+)"', re.MULTILINE)
NATIVE = {".cpp", ".cu", ".cuh", ".h", ".inc"}


def tracked(*folders: str) -> set[str]:
    """Return what git tracks or would add, and is there."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return {name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()}


@pytest.mark.install
def test_a_source_distribution_is_complete(sandbox: Sandbox) -> None:
    """It is built without a repository; another test builds wheels from one."""
    done = run_python("-c", SDIST, folder=sandbox.source, SEGLOSS_BUILD="skip")
    assert done.returncode == 0, done.stdout
    with tarfile.open(sandbox.source / "dist" / done.stdout.splitlines()[-1]) as archive:
        files = [member.name for member in archive.getmembers() if member.isfile()]
    names = {name.split("/", 1)[1] for name in files}
    assert {name for name in names if not MADE.fullmatch(name)} == PACKED | tracked(
        "csrc", "segloss_fast"
    )


def test_native_code_includes_its_own_files_alone() -> None:
    """So that what is packed is enough: csrc, which is, and headers of others."""
    files = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in NATIVE]
    assert len(files) > 100
    for path in files:
        for name in INCLUDE.findall(path.read_text()):
            there = [path.parent / name, ROOT / "csrc" / name]
            found = [each.resolve() for each in there if each.is_file()]
            assert found, f"{path.relative_to(ROOT)} includes {name}"
            assert found[0].is_relative_to((ROOT / "csrc").resolve()), name


@pytest.mark.install
def test_a_wheel_holds_the_package_alone(pure_sandbox: Sandbox) -> None:
    site = pure_sandbox.site
    names = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    own = {name for name in names if ".dist-info/" not in name and not name.endswith(".pyc")}
    assert own == tracked("segloss_fast") | {"segloss_fast/_pure.json"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def lowest() -> tuple[int, int]:
    """Return the lowest Python that the package asks for."""
    project = (ROOT / "pyproject.toml").read_text()
    found = re.search(r'^requires-python = ">=(\d+)\.(\d+)"$', project, re.MULTILINE)
    assert found is not None
    return int(found[1]), int(found[2])


@begins_in("all")
def test_the_lowest_python_parses_all_code() -> None:
    """By this one's parser, which knows older grammars; mypy knows what was in their library."""
    assert lowest() == (3, 10)
    with pytest.raises(SyntaxError):
        ast.parse("try: pass\nexcept* OSError: pass", feature_version=lowest())
    folders = ("segloss_fast", "benchmarks", "examples", "scripts", "tests")
    paths = [*ROOT.glob("*.py"), *(p for name in folders for p in (ROOT / name).rglob("*.py"))]
    assert len(paths) > 400
    for path in paths:
        ast.parse(path.read_text(), str(path), feature_version=lowest())
