"""Copies of the source tree: one to plant faults in and to build, and a clean one beside it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.faults.fault import Fault
from tests.suite.built import CODE
from tests.suite.tree import ROOT, copy_tree

FOLDER = ROOT / "build" / "faults"
WORKERS = 2
SECONDS = 300  # that the tests of a fault may take in a tier
NO_TESTS = 5  # pytest's exit status
BUILD = ("setup.py", "--quiet", "build_ext", "--inplace")
# -O1: a build takes less than half the time, and no fault is one of optimisation.
HOW: dict[str, Any] = {"SEGLOSS_BUILD": "require", "SEGLOSS_CUDA": "0", "CXXFLAGS": "-O1"}
# Prints which native module a test would get.
FIND = ("-c", "from segloss_fast import _native; print(_native._C and _native._C.__file__)")


class BrokenError(Exception):
    """A fault tells nothing: it was not built, or its tests did not run."""


class Copy:
    """A copy of the source tree, in which at most one fault is planted.

    Files are written only where they change: what is compiled again goes by their times.
    """

    def __init__(self, name: str) -> None:
        self.root = FOLDER / name
        self._planted: tuple[Path, str] | None = None  # the changed file, and what it held
        self._is_stale = True

    def refresh(self) -> None:
        """Make the copy equal to the source tree; what was built before stays, and is reused."""
        fresh = FOLDER / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        copy_tree(fresh)
        wanted = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
        for path in list(self.root.rglob("*")):
            name = path.relative_to(self.root)
            if path.suffix in CODE and name.parts[0] != "build" and name not in wanted:
                path.unlink()
        for name in sorted(wanted):
            source, target = fresh / name, self.root / name
            if not target.is_file() or target.read_bytes() != source.read_bytes():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)  # with the time of now, other than copy_tree
        shutil.rmtree(fresh)
        self._planted, self._is_stale = None, True

    def plant(self, fault: Fault | None) -> None:
        """Put back what the last fault changed, and plant this one."""
        if self._planted is not None:
            self._write(*self._planted)
        self._planted = None
        if fault is not None:
            path = self.root / fault.file
            text = path.read_text()
            self._write(path, text.replace(fault.old, fault.new))
            self._planted = path, text

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text)
        name = path.relative_to(self.root)
        self._is_stale |= name.parts[0] == "csrc" and "cuda" not in name.parts

    def build(self) -> None:
        """Build the native module, if a file that it is made of was written since.

        Raises:
            BrokenError: If that fails, or the tests would get another module.
        """
        if not self._is_stale:
            return
        code, said = self._python(*BUILD, **HOW)
        if code != 0:
            compiler, *_ = said.split("Traceback (most recent call last)")
            raise BrokenError(f"the native module was not built: {_tail(compiler)}")
        code, said = self._python(*FIND)
        if code != 0 or not said.startswith(str(self.root)):
            raise BrokenError(f"the copy's own native module was not loaded: {_tail(said)}")
        self._is_stale = False

    def failed_test(self, fault: Fault, tier: str) -> str | None:
        """Run the fault's tests in a tier, up to the first failure.

        Returns:
            The test that failed, None if all passed, or the tier has none.

        Raises:
            BrokenError: If pytest failed and no test did, as where one cannot be imported.
        """
        environ = {"TRITON_INTERPRET": "1"} if fault.interpreted else {}
        arguments = ("-m", "pytest", "-x", "-q", *self._options(tier), *fault.tests)
        try:
            code, said = self._python(*arguments, limit=SECONDS, **environ)
        except subprocess.TimeoutExpired:
            raise BrokenError(f"its tests took more than {SECONDS} s") from None
        failed = [line for line in said.splitlines() if line.startswith("FAILED ")]
        if failed:
            return failed[0].removeprefix("FAILED ").split(" - ")[0].strip()
        if code == 0 or (code == NO_TESTS and tier != fault.tier):
            return None
        if code == NO_TESTS:
            raise BrokenError(f"none of its tests runs in tier {tier}")
        raise BrokenError(f"its tests did not run: {_tail(said)}")

    def twin(self, name: str) -> Copy:
        """Return another copy as this one is now, with its native module but without its builds."""
        twin = Copy(name)
        shutil.rmtree(twin.root, ignore_errors=True)
        shutil.copytree(self.root, twin.root, ignore=shutil.ignore_patterns("build", "__pycache__"))
        return twin

    def failures(self, tests: Sequence[str], *, interpreted: bool) -> set[str]:
        """Run single tests, and return those that do not pass."""
        environ = {"TRITON_INTERPRET": "1"} if interpreted else {}
        arguments = ("-m", "pytest", "-q", *self._options("all"), *tests)
        code, said = self._python(*arguments, limit=None, **environ)
        found = {test for test in tests for line in said.splitlines() if _is_of(line, test)}
        # Something else went wrong: nothing is known of any.
        return found if code == 0 or found else set(tests)

    def passes(self, paths: Sequence[str]) -> bool:
        """Run test files in tier test, and let pytest say what it finds."""
        command = [sys.executable, "-m", "pytest", "-q", *self._options("test"), *paths]
        return subprocess.run(command, cwd=self.root, env=_environ({})).returncode == 0

    def _options(self, tier: str) -> list[str]:
        return ["--numprocesses", str(WORKERS), "--dist", "worksteal", "--tier", tier]

    def _python(
        self, *arguments: str, limit: float | None = None, **environ: str
    ) -> tuple[int, str]:
        """Run an interpreter in the copy; return its exit status, and all that it printed."""
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.root,
            env=_environ(environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(timeout=limit)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # pytest's workers, too
            process.wait()
            raise
        return process.returncode, said


def _environ(changes: dict[str, str]) -> dict[str, str]:
    """Return the environment without what would choose other code, tests or options."""
    names = ("PYTHONPATH", "PYTEST_ADDOPTS", "TRITON_INTERPRET", "COVERAGE_PROCESS_START")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in names and not name.startswith("SEGLOSS_")
    }
    return {**kept, **changes}


def _is_of(line: str, test: str) -> bool:
    """Whether a line of pytest's summary says that the test did not pass."""
    return line.split(" - ")[0].strip() in (f"FAILED {test}", f"ERROR {test}")


def _tail(said: str) -> str:
    """Return the last lines of an output."""
    return "\n".join(said.strip().splitlines()[-15:])
