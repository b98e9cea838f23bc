"""Runs the native kernels under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from segloss_fast.ops import PRIMITIVES
from tests.conftest import COMPILER, ROOT, Sandbox, run_python
from tests.cuda_shim.build import sanitized_name, sanitizers
from tests.cuda_shim.operators import NAME, build_primitive
from tests.suite.built import NATIVE, once
from tests.suite.tiers import begins_in

pytestmark = pytest.mark.sanitizers

HERE = Path(__file__).parent
PLANTED = """
import ctypes, sys
library, error = sys.argv[1:]
arguments = {
    "overflow": (ctypes.c_int(2**31 - 1),),
    "truncate": (ctypes.c_float(float("nan")),),
    "read": (ctypes.c_void_p(None),),
    "use_after_scope": (ctypes.c_int(1),),
}
if error == "read_past_end":
    import torch  # the error lies just behind what its allocator gave out
    memory = torch.ones(33)
    arguments[error] = (ctypes.c_void_p(memory.data_ptr()), ctypes.c_long(memory.numel()))
getattr(ctypes.CDLL(library), error)(*arguments[error])
print("not noticed")
"""


@pytest.fixture(scope="module")
def runtime() -> dict[str, str]:
    """The environment in which Python, itself not built with sanitizers, runs code that is."""
    if shutil.which(COMPILER) is None:
        pytest.skip("no C++ compiler")
    libraries = []
    for name in ("libasan.so", "libubsan.so", "libstdc++.so.6"):
        command = [COMPILER, f"-print-file-name={name}"]
        path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        if not os.path.isabs(path):
            pytest.skip(f"{COMPILER} has no {name}")
        libraries.append(path)
    # Leaks: Python's own, at exit. Memory that nobody has is refused, as without sanitizers.
    options = "detect_leaks=0:allocator_may_return_null=1"
    return {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": options}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with errors."""
    library = tmp_path_factory.mktemp("planted") / "planted.so"
    command = [COMPILER, *sanitizers(), "-shared", "-fPIC", str(HERE / "planted.cpp")]
    subprocess.run([*command, "-o", str(library)], check=True)
    return library


@pytest.mark.parametrize(
    ("error", "report"),
    [
        ("read_past_end", "AddressSanitizer: heap-buffer-overflow"),
        ("overflow", "runtime error: signed integer overflow"),
        ("truncate", "runtime error: nan is outside the range"),
        ("read", "AddressSanitizer: SEGV on unknown address 0x000000000000"),
        pytest.param(
            "use_after_scope", "AddressSanitizer: stack-use-after-scope", marks=begins_in("hand")
        ),
    ],
)
def test_planted_error_is_reported(
    planted: Path, runtime: dict[str, str], tmp_path: Path, error: str, report: str
) -> None:
    done = run_python("-c", PLANTED, str(planted), error, folder=tmp_path, **runtime)
    assert done.returncode != 0, done.stdout
    assert report in done.stdout
    assert "not noticed" not in done.stdout


def test_overflow_is_reported_under_the_flags_of_the_build(
    sanitized_sandbox: Sandbox, runtime: dict[str, str], tmp_path: Path
) -> None:
    """Python's own come first: under -fwrapv, which they may hold, no overflow is a finding."""
    (plan,) = (sanitized_sandbox.source / "build").rglob("build.ninja")
    found = dict(re.findall(r"^(cflags|post_cflags) = (.+)$", plan.read_text(), re.MULTILINE))
    flags = shlex.split(f"{found['cflags']} {found['post_cflags']}".replace(" -c ", " "))
    library = tmp_path / "planted.so"
    # -fvisibility: the build hides what it does not export.
    command = [COMPILER, *flags, "-fvisibility=default", "-shared", str(HERE / "planted.cpp")]
    subprocess.run([*command, "-o", str(library)], check=True)
    done = run_python("-c", PLANTED, str(library), "overflow", folder=tmp_path, **runtime)
    assert done.returncode != 0, done.stdout
    assert "runtime error: signed integer overflow" in done.stdout


def ended(said: str) -> list[tuple[str, str]]:
    """Return the fuzzers of fuzz_all.py that ended, and their exit statuses."""
    return re.findall(r"^fuzz_(\w+) ended with (-?\d+)$", said, re.MULTILINE)


def test_native_code(sanitized_sandbox: Sandbox, runtime: dict[str, str]) -> None:
    native = [name for name in PRIMITIVES if (ROOT / "csrc" / name).is_dir()]
    fuzzers = [*native, "nearest_component", "sizes", "formula"]
    done = sanitized_sandbox.python(str(HERE / "fuzz_all.py"), *fuzzers, **runtime)
    assert done.returncode == 0, done.stdout
    assert ended(done.stdout) == [(name, "0") for name in fuzzers], done.stdout
    print(done.stdout)  # tests/robustness.py counts
    # Each under every instruction set of this machine.
    assert done.stdout.count("baseline: no finding") == len(fuzzers), done.stdout


def test_cuda_kernels(runtime: dict[str, str]) -> None:
    """On the CPU, in one process, because it takes longer to begin than to run."""
    primitives = [name for name in PRIMITIVES if (HERE / f"fuzz_{name}_cuda.py").exists()]
    assert len(primitives) >= 5
    fuzzers = {f"{name}_cuda": sanitized(name) for name in primitives}
    given = [f"{name}={library}" for name, library in fuzzers.items()]
    script = str(HERE / "fuzz_all.py")
    done = run_python(script, *given, folder=ROOT, **runtime, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stdout
    assert ended(done.stdout) == [(name, "0") for name in fuzzers], done.stdout
    print(done.stdout)  # tests/robustness.py counts
    assert done.stdout.count("no finding") == len(fuzzers), done.stdout


def sanitized(primitive: str) -> Path:
    """Return the CUDA operators of a primitive, built for the CPU with sanitizers."""

    def build(folder: Path) -> None:
        build_primitive(primitive, folder, sanitize=True)

    return once(sanitized_name(f"sanitized-{primitive}"), NATIVE, build) / NAME
