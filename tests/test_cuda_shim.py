"""Tests the headers that run CUDA kernels on the CPU: their results, and the errors they report."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda_shim.build import HERE, available, build, sanitized_name
from tests.suite.built import NATIVE, once

pytestmark = pytest.mark.shim

SEEDS = [0, 1]
CASES = {
    "selftest": [
        "reduction",
        "scan",
        "votes",
        "shuffles",
        "atomics",
        "indices",
        "barriers",
        "parameters",
        "limits",
    ],
    "numbers": ["intrinsics", "halves"],
}
RESULTS = [(program, case) for program, cases in CASES.items() for case in cases]
STUCK = "threads wait for others that never come"
PLANTED = {
    "overrun_shared": ["AddressSanitizer: heap-buffer-overflow", "READ of size 4"],
    "overrun_global": ["AddressSanitizer: heap-buffer-overflow", "WRITE of size 4"],
    "overrun_stack": ["AddressSanitizer: stack-buffer-overflow"],
    "huge_stack": ["AddressSanitizer: stack-overflow"],
    "keep_shared": ["AddressSanitizer: heap-use-after-free"],
    "uninitialised": ["wrong: zero"],
    "no_shared": ["block (0, 0, 0) of 1 threads", "launched without dynamic shared memory"],
    "exited": [STUCK, "threads 0 to 31: wait at __syncthreads, ", "threads 32 to 63: exited"],
    "divergent": [STUCK, "threads 0 to 31: wait at", "threads 32 to 63: wait at __syncthreads, "],
    "different": [STUCK, "thread 0: wait at __syncthreads, ", "wait at __syncthreads_or, "],
    "missing_lane": [STUCK, "wait at __shfl_down_sync with mask 0xffffffff", "thread 5: exited"],
    "short_warp": [STUCK, "threads 32 to 47: wait at __syncwarp with mask 0xffffffff"],
    "left_out": ["calls a warp intrinsic whose mask leaves it out"],
    "foreign_lane": [
        "block (0, 0, 0) of 32 threads",
        "shuffles from a lane that its mask leaves out",
    ],
    "misaligned": ["runtime error: ", "misaligned address", "requires 16 byte alignment"],
}
ORDERS = ["missing_barrier", "order_of_blocks"]
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
PROGRAMS = [*CASES, "planted"]


@pytest.fixture(scope="module")
def programs() -> dict[str, Path]:
    if not available():
        pytest.skip("no C++ compiler")

    def build_all(folder: Path) -> None:
        for name in PROGRAMS:
            build([HERE / f"{name}.cu"], folder / name, sanitize=True, options=["-Werror"])

    folder = once(sanitized_name("shim-programs"), NATIVE, build_all)
    return {name: folder / name for name in PROGRAMS}


def run(
    program: Path, *arguments: str, seed: int = 0, seconds: int = 300
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments],
        env={**os.environ, "SEGLOSS_SHIM_SEED": str(seed)},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )


def assert_as_expected(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout
    assert "as expected" in done.stdout, done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_case_is_forgotten(programs: dict[str, Path], program: str) -> None:
    cases = {**CASES, "planted": [*PLANTED, *ORDERS]}[program]
    assert sorted(run(programs[program]).stdout.split()) == sorted(cases)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("program", "case"), RESULTS)
def test_result(programs: dict[str, Path], program: str, case: str, seed: int) -> None:
    assert_as_expected(run(programs[program], case, seed=seed))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("case", PLANTED)
def test_planted_error_is_reported(programs: dict[str, Path], case: str, seed: int) -> None:
    try:
        done = run(programs["planted"], case, seed=seed, seconds=30)
    except subprocess.TimeoutExpired:  # a sanitizer that meets its own error may wait for itself
        done = run(programs["planted"], case, seed=seed, seconds=300)
    assert done.returncode != 0, done.stdout
    for text in PLANTED[case]:
        assert text in done.stdout, done.stdout


@pytest.mark.parametrize("case", ORDERS)
def test_order_without_a_barrier_is_noticed(programs: dict[str, Path], case: str) -> None:
    assert_as_expected(run(programs["planted"], case, seed=0))
    shuffled = run(programs["planted"], case, seed=1)
    assert shuffled.returncode == 1, shuffled.stdout
    assert "wrong: value" in shuffled.stdout, shuffled.stdout


@pytest.mark.parametrize("seed", SEEDS)
def test_shared_library_without_sanitizers(tmp_path: Path, seed: int) -> None:
    if not available():
        pytest.skip("no C++ compiler")
    path = build([HERE / "planted.cu"], tmp_path / "planted.so", shared=True)
    script = (
        "import ctypes, sys\n"
        "library = ctypes.CDLL(sys.argv[1])\n"
        "library.segloss_shim_set_seed(int(sys.argv[2]))\n"
        "arguments = (ctypes.c_char_p * 2)(b'', b'missing_barrier')\n"
        "sys.exit(library.main(2, arguments))\n"
    )
    done = run(Path(sys.executable), "-c", script, str(path), str(seed))
    assert done.returncode == (0 if seed == 0 else 1), done.stdout
    assert ("as expected" if seed == 0 else "wrong: value") in done.stdout


def test_source_that_does_not_compile(tmp_path: Path) -> None:
    if not available():
        pytest.skip("no C++ compiler")
    source = tmp_path / "wrong.cu"
    source.write_text("#include <cuda_runtime.h>\n__global__ void kernel() { undeclared(); }\n")
    with pytest.raises(RuntimeError, match="undeclared"):
        build([source], tmp_path / "wrong")


def nvcc(program: str, *options: str, folder: Path) -> None:
    if NVCC is None:
        pytest.skip("no nvcc")
    # Run where the headers are not: nvcc looks for its own in the current folder first.
    command = [NVCC, "-std=c++20", *options, str(HERE / f"{program}.cu")]
    done = subprocess.run(
        command,
        cwd=folder,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_cuda_compiles_the_same_source(program: str, tmp_path: Path) -> None:
    nvcc(program, "-arch=sm_90", "-c", "-o", str(tmp_path / "object"), folder=tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("program", CASES)
def test_gpu_gives_the_same_results(program: str, tmp_path: Path) -> None:
    if shutil.which("nvidia-smi") is None:
        pytest.skip("no GPU")
    nvcc(program, "-arch=native", "-o", str(tmp_path / program), folder=tmp_path)
    for case in CASES[program]:
        assert_as_expected(run(tmp_path / program, case))
