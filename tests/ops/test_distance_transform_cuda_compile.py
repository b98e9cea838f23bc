"""Compiles the CUDA kernels of distance_transform with nvcc, and looks at what they need."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from torch.utils import cpp_extension

from setup import NVCC_FLAGS, STABLE_ABI_TARGET
from tests.conftest import ROOT

pytestmark = pytest.mark.kernels

NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
CUDA = ROOT / "csrc" / "distance_transform" / "cuda"
ARCHITECTURES = ("sm_80", "sm_90")
KERNELS = {"runs": 4 * 3, "lines": 3 * 2 * 2}  # types in and out; types, sides, staged
# Two blocks of 256 threads, or one of 1024, on a multiprocessor of 65536 registers.
MOST_REGISTERS = {"runs": 128, "lines": 64}


@dataclass(frozen=True)
class Usage:
    """What a thread of a kernel needs, in bytes but for the registers."""

    registers: int
    stack: int
    spilled: int
    shared: int


def compile_source(name: str, folder: Path) -> str:
    """Return what nvcc says, but for the notes on C++ that are not about these files."""
    if NVCC is None:
        pytest.skip("no nvcc")
    command = [
        *(NVCC, *NVCC_FLAGS, "-Xptxas=-v", "-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra"),
        *("-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={STABLE_ABI_TARGET}", f"-I{ROOT / 'csrc'}"),
        *(f"-isystem={path}" for path in cpp_extension.include_paths()),
        *("-c", str(CUDA / f"{name}.cu"), "-o", str(folder / f"{name}.o")),
    ]
    done = subprocess.run(
        command,
        cwd=folder,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def usages(said: str) -> dict[tuple[str, str], Usage]:
    """Return the needs of each kernel, by mangled name and architecture."""
    found = {}
    for part in said.split("Compiling entry function ")[1:]:
        entry = re.match(r"'(\w+)' for '(\w+)'", part)
        stack = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", part)
        registers = re.search(r"Used (\d+) registers", part)
        assert entry is not None
        assert stack is not None
        assert registers is not None
        shared = re.search(r"(\d+) bytes smem", part)
        found[entry[1], entry[2]] = Usage(
            int(registers[1]), int(stack[1]), int(stack[2]), int(shared[1]) if shared else 0
        )
    return found


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_keep_to_registers(name: str, tmp_path: Path) -> None:
    found = usages(compile_source(name, tmp_path))
    for architecture in ARCHITECTURES:
        of = {kernel: usage for (kernel, built), usage in found.items() if built == architecture}
        assert len(of) == KERNELS[name]
        for kernel, usage in of.items():
            print(architecture, kernel, usage)
            assert usage.stack == usage.spilled == 0, (architecture, kernel, usage)
            assert usage.registers <= MOST_REGISTERS[name], (architecture, kernel, usage)
            assert usage.shared == 0, (architecture, kernel, usage)  # all of it is dynamic


@pytest.mark.parametrize("name", ["op", "binding"])
def test_host_code_compiles(name: str, tmp_path: Path) -> None:
    compile_source(name, tmp_path)
