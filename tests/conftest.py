"""What several test files share: the native module, and installs into temporary folders.

The suite's own options and hooks, its tiers and kinds of tests, are in tests/suite.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch  # before the package, whose import coverage follows

from segloss_fast import _install, _native
from tests.cuda_shim import build as flags
from tests.suite import durations, interpreter, selection, tracing
from tests.suite.built import PACKAGE, once, write_quick_compiler
from tests.suite.tree import ROOT as ROOT
from tests.suite.tree import copy_tree

COMPILER = os.environ.get("CXX", "c++")


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the suite's hooks; pytest then asks them for their options."""
    pluginmanager.register(selection, "segloss_selection")
    pluginmanager.register(durations, "segloss_durations")
    pluginmanager.register(tracing, "segloss_tracing")
    pluginmanager.register(interpreter, "segloss_interpreter")


def pytest_runtest_setup() -> None:
    """Let a test draw the same numbers, whichever ran before it."""
    torch.default_generator.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def warned_of_a_pure_install() -> None:
    """Say once for all tests what is said once in a process: they compare warnings."""
    _install._warned = True


def run_python(*arguments: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a new interpreter in a folder; what the suite itself was built with has no say there.

    Coverage does not follow it, unless the variables say so.
    """
    hidden = {"SEGLOSS_BUILD", "PYTHONPATH", *tracing.variables()}
    outside = {k: v for k, v in os.environ.items() if k not in hidden}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**outside, **environ},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


class Sandbox:
    """A copy of the source tree, and a folder beside it to install the package into.

    Attributes:
        source: The copy, of what git tracks or would add: build folders stay behind.
        site: Where the package goes.
    """

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self.site = folder / "site"

    @classmethod
    def fill(cls, folder: Path) -> Sandbox:
        """Copy the source tree to a folder."""
        sandbox = cls(folder)
        sandbox.site.mkdir()
        copy_tree(sandbox.source)
        return sandbox

    def install(self, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Let pip install the copy; -v because pip hides what a successful build prints."""
        command = ["-m", "pip", "install", "-v", "--no-deps", "--target", str(self.site), *options]
        return run_python(*command, ".", folder=self.source, **environ)

    def python(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run an interpreter that finds the installed package before any other.

        -S, and the paths by hand, because an editable install of the package under test hooks
        itself into every interpreter that looks at site-packages.
        """
        path = os.pathsep.join([str(self.site), *filter(None, sys.path)])
        return run_python("-S", *arguments, folder=self.site, PYTHONPATH=path, **environ)

    def libraries(self) -> list[Path]:
        """The native modules that were installed."""
        return sorted((self.site / "segloss_fast").glob("_C*"))


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox.fill(tmp_path)


def install_once(name: str, *, quick: bool = False, **environ: str) -> Sandbox:
    """Return a sandbox in which the package is installed, by one of all workers.

    Args:
        name: Of the kind of install.
        quick: Whether to compile without optimisation, and to keep the object files.
        environ: Variables of the build.
    """

    def build(folder: Path) -> None:
        chosen = dict(environ)
        if quick:
            chosen["CXX"] = str(folder / "c++")
            write_quick_compiler(folder / "c++")
        done = Sandbox.fill(folder).install("--no-build-isolation", **chosen)
        assert done.returncode == 0, done.stdout
        (folder / "said.txt").write_text(done.stdout)

    inputs = (*PACKAGE, Path(flags.__file__))
    return Sandbox(once(f"installed-{name}", inputs, build))


@pytest.fixture(scope="session")
def native_sandbox() -> Sandbox:
    """The package installed with its native module."""
    if shutil.which(COMPILER) is None:
        pytest.skip("no C++ compiler")
    return install_once("native", quick=True, SEGLOSS_BUILD="require")


@pytest.fixture(scope="session")
def pure_sandbox() -> Sandbox:
    """The package installed without a native module because SEGLOSS_BUILD=skip said so."""
    sandbox = install_once("pure", SEGLOSS_BUILD="skip")
    said = (sandbox.source.parent / "said.txt").read_text()
    assert "installing without" not in said  # as asked, so nothing to warn of
    return sandbox


@pytest.fixture(scope="session")
def sanitized_sandbox() -> Sandbox:
    """The package installed with a native module that watches addresses and undefined behaviour."""
    if shutil.which(COMPILER) is None:
        pytest.skip("no C++ compiler")
    chosen = " ".join(flags.sanitizers())  # they come after setup.py's -O3
    return install_once(flags.sanitized_name("sanitized"), SEGLOSS_BUILD="require", CXXFLAGS=chosen)


@pytest.fixture
def native() -> ModuleType:
    """The native module of the package under test."""
    if _native._C is None:
        pytest.skip("the package under test was installed without its native module")
    return _native._C


@pytest.fixture
def cpu_capability(native: ModuleType) -> Iterator[ModuleType]:
    """The native module, whose CPU capability is restored after the test."""
    best = native.cpu_capability()
    yield native
    native.set_cpu_capability(best)
