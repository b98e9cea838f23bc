"""The settings in which the package installs, each for real, by pip into a temporary folder."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Sandbox, run_python

pytestmark = pytest.mark.install

# Fails unless the package of the current folder works, with or without its native module as told.
USE = """
import os, sys
import torch
import segloss_fast
from segloss_fast._native import _C
assert os.path.dirname(segloss_fast.__file__) == os.path.join(os.getcwd(), "segloss_fast")
assert (_C is not None) == (sys.argv[1] == "native"), _C
x = torch.randn(2, 3, 5, 7, requires_grad=True)
labels = torch.randint(3, (2, 5, 7))
loss = segloss_fast.DiceCELoss()(x, labels)
loss.backward()
assert loss.isfinite() and x.grad.count_nonzero() == x.numel()
"""
# Fails unless the implementation named is missing, with an error that says so.
MISSING = """
import sys
import torch
import segloss_fast
try:
    segloss_fast.region_sums(torch.zeros(1, 2, 3), torch.zeros(1, 3), impl=sys.argv[1])
except RuntimeError as error:
    print(error)
else:
    raise AssertionError("it ran")
"""
NO_TRITON = "import sys; sys.modules['triton'] = None\n"


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[Sandbox], Sandbox]:
    """Copies a sandbox, for a test that breaks it."""

    def copy(sandbox: Sandbox) -> Sandbox:
        copied = Sandbox(tmp_path)
        shutil.copytree(sandbox.source, copied.source)
        shutil.copytree(sandbox.site, copied.site)
        return copied

    return copy


def broken_compiler(folder: Path) -> dict[str, str]:
    """An environment whose compiler answers questions about itself, but compiles nothing."""
    real = shutil.which("c++") or "false"
    program = folder / "c++"
    refusal = 'case " $* " in *" -c "*) echo "no space left" >&2; exit 1;; esac'
    program.write_text(f'#!/bin/sh\n{refusal}\nexec {real} "$@"\n')
    program.chmod(0o755)
    return {"CC": str(program), "CXX": str(program)}


def no_compiler(folder: Path) -> dict[str, str]:
    """An environment without any program at all."""
    return {"CC": str(folder / "cc"), "CXX": str(folder / "c++"), "PATH": str(folder)}


def assert_works(sandbox: Sandbox, kind: str) -> None:
    done = sandbox.python("-c", USE, kind)
    assert done.returncode == 0, done.stdout
    assert len(sandbox.libraries()) == (kind == "native")


def assert_missing(sandbox: Sandbox, impl: str, message: str, prefix: str = "") -> None:
    done = sandbox.python("-c", prefix + MISSING, impl)
    assert done.returncode == 0, done.stdout
    assert f"impl='{impl}' is not available here" in done.stdout
    assert message in done.stdout


def test_native(native_sandbox: Sandbox) -> None:
    assert_works(native_sandbox, "native")
    code = "import torch, segloss_fast as s\n"
    code += "print(s.region_sums(torch.zeros(1, 2, 9), torch.zeros(1, 9), impl='native').tp)"
    done = native_sandbox.python("-c", code)
    assert "[[4.5000, 0.0000]]" in done.stdout, done.stdout


def test_skip(pure_sandbox: Sandbox) -> None:
    assert_works(pure_sandbox, "pure")
    assert_missing(pure_sandbox, "native", "this install was made with SEGLOSS_BUILD=skip")
    assert "py3-none-any" in next(pure_sandbox.site.glob("*.dist-info/WHEEL")).read_text()


@pytest.mark.parametrize(
    ("setting", "said", "told"),
    [
        (broken_compiler, "the native build failed: ", "its native build failed; run: "),
        (no_compiler, "no C++ compiler (", "there was no C++ compiler when it was installed; "),
    ],
)
def test_no_compiler(
    sandbox: Sandbox,
    tmp_path: Path,
    setting: Callable[[Path], dict[str, str]],
    said: str,
    told: str,
) -> None:
    done = sandbox.install("--no-build-isolation", SEGLOSS_BUILD="auto", **setting(tmp_path))
    assert done.returncode == 0, done.stdout
    assert f"segloss_fast: installing without native kernels: {said}" in done.stdout
    assert_works(sandbox, "pure")
    assert_missing(sandbox, "native", told)
    assert "py3-none-any" in next(sandbox.site.glob("*.dist-info/WHEEL")).read_text()


@pytest.mark.parametrize(
    ("setting", "said"), [(broken_compiler, "no space left"), (no_compiler, "no C++ compiler (")]
)
def test_no_compiler_but_required(
    sandbox: Sandbox, tmp_path: Path, setting: Callable[[Path], dict[str, str]], said: str
) -> None:
    environ = setting(tmp_path)
    done = sandbox.install("--no-build-isolation", SEGLOSS_BUILD="require", **environ)
    assert done.returncode != 0, done.stdout
    assert said in done.stdout
    assert not (sandbox.site / "segloss_fast").exists()


def test_failed_rebuild_leaves_no_older_library(
    native_sandbox: Sandbox, changed: Callable[[Sandbox], Sandbox], tmp_path: Path
) -> None:
    copy = changed(native_sandbox)  # with its build folder
    shutil.rmtree(copy.site / "segloss_fast")
    done = copy.install("--no-build-isolation", SEGLOSS_BUILD="auto", **no_compiler(tmp_path))
    assert "segloss_fast: installing without native kernels: no C++ compiler" in done.stdout
    assert_works(copy, "pure")


def test_editable_without_compiler(sandbox: Sandbox, tmp_path: Path) -> None:
    """Takes away what an earlier build left in the source tree."""
    older = sandbox.source / "segloss_fast" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    older.write_bytes(b"not a library")
    # As `make build`, but by the build back end's hook: pip refuses --editable with --target.
    code = "import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1])"
    environ = {"SEGLOSS_BUILD": "auto", **no_compiler(tmp_path)}
    done = run_python("-c", code, str(tmp_path), folder=sandbox.source, **environ)
    assert done.returncode == 0, done.stdout
    assert "segloss_fast: installing without native kernels: no C++ compiler" in done.stdout
    assert not older.exists()
    assert (sandbox.source / "segloss_fast/_pure.json").exists()


def test_unknown_mode_is_refused(sandbox: Sandbox) -> None:
    done = sandbox.install("--no-build-isolation", SEGLOSS_BUILD="nonsense")
    assert done.returncode != 0
    assert "SEGLOSS_BUILD must be one of auto, require, skip, got 'nonsense'" in done.stdout


def test_ninja_is_found_off_the_path(sandbox: Sandbox, tmp_path: Path) -> None:
    """Python run by its full path, as the Makefile does: pip puts ninja beside it, not on PATH."""
    path = "/usr/bin:/bin"
    if (
        shutil.which("ninja", path=path)
        or not Path(sysconfig.get_path("scripts"), "ninja").exists()
    ):
        pytest.skip("ninja is in the system, or not in this environment")
    environ = {"SEGLOSS_BUILD": "auto", "PATH": path, **broken_compiler(tmp_path)}
    done = sandbox.install("--no-build-isolation", **environ)
    assert "no space left" in done.stdout  # the compiler was called
    assert "could not find ninja" not in done.stdout


def test_without_triton(pure_sandbox: Sandbox) -> None:
    done = pure_sandbox.python("-c", NO_TRITON + USE, "pure")
    assert done.returncode == 0, done.stdout
    assert_missing(pure_sandbox, "triton", "Triton", prefix=NO_TRITON)


def test_native_module_that_does_not_load(
    pure_sandbox: Sandbox, changed: Callable[[Sandbox], Sandbox]
) -> None:
    copy = changed(pure_sandbox)
    library = copy.site / "segloss_fast" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    library.write_bytes(b"not a library")
    done = copy.python("-c", "import segloss_fast")
    assert done.returncode != 0
    assert (
        "ImportError: segloss_fast was built with a native module that does not load" in done.stdout
    )


def test_native_module_of_another_version(
    native_sandbox: Sandbox, changed: Callable[[Sandbox], Sandbox]
) -> None:
    copy = changed(native_sandbox)
    (copy.site / "segloss_fast" / "_version.py").write_text('__version__ = "99.0"\n')
    done = copy.python("-c", "import segloss_fast")
    assert done.returncode != 0
    assert "ImportError: segloss_fast 99.0 found a native module built for" in done.stdout


def test_import_starts_no_process(native_sandbox: Sandbox) -> None:
    code = """
import sys
import torch

def refuse(event, arguments):
    if event in ("subprocess.Popen", "os.system", "os.posix_spawn", "os.fork", "os.exec"):
        raise AssertionError(f"{event} {arguments}")

sys.addaudithook(refuse)
import segloss_fast
assert not torch.cuda.is_initialized()
import subprocess
try:
    subprocess.run([sys.executable, "--version"])
except AssertionError:
    print("the hook is alive")
"""
    done = native_sandbox.python("-c", code)
    assert done.returncode == 0, done.stdout
    assert "the hook is alive" in done.stdout
