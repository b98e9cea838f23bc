"""Runs the native code under the sanitizer of threads: no two of them touch the same memory."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import COMPILER, ROOT
from tests.sanitizers.threads import build as drivers
from tests.suite.built import once
from tests.suite.tiers import begins_in

pytestmark = pytest.mark.sanitizers

# Whose threads share more than their input: counters, buckets, unions, the lines of a volume.
SHARING = ("component_sums", "connected_components", "distance_transform", "lovasz")
FOUND = 66  # what a process that has a race ends with


def built(name: str, primitives: tuple[str, ...], *, every_set: bool) -> Path:
    """Return the program with the drivers of these primitives, or skip the test."""
    if shutil.which(COMPILER) is None:
        pytest.skip("no C++ compiler")
    command = [COMPILER, "-print-file-name=libtsan.so"]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(found):
        pytest.skip(f"{COMPILER} has no libtsan.so")
    inputs = (ROOT / "csrc", Path(drivers.__file__).parent)
    folder = once(
        f"threads-{name}",
        inputs,
        lambda folder: drivers.build(folder, primitives, every_set=every_set),
    )
    return folder / "drivers"


def run(program: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """Run drivers, and return how they ended and all that they and the sanitizer said."""
    return subprocess.run(
        [str(program), *names],
        env={**os.environ, "TSAN_OPTIONS": f"exitcode={FOUND}"},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )


def assert_clean(program: Path, names: tuple[str, ...]) -> None:
    done = run(program, *names)
    assert done.returncode == 0, done.stdout
    assert "WARNING: ThreadSanitizer" not in done.stdout, done.stdout
    lines = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert lines == [f"{name}" for name in names], done.stdout
    print(done.stdout)  # tests/robustness.py counts


def test_planted_race_is_reported() -> None:
    done = run(built("sharing", SHARING, every_set=False), "planted")
    assert done.returncode == FOUND, done.stdout
    assert "WARNING: ThreadSanitizer: data race" in done.stdout


def test_threads_that_share_memory() -> None:
    assert_clean(built("sharing", SHARING, every_set=False), SHARING)


@begins_in("hand")
def test_every_primitive_with_every_instruction_set() -> None:
    names = tuple(drivers.primitives())
    assert set(SHARING) < set(names)
    program = built("every", names, every_set=True)
    for capability in ("baseline", "avx2", "avx512"):
        assert_clean(program, (f"set={capability}", *names))
