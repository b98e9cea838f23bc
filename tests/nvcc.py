"""Compiles CUDA sources with nvcc, and says what their kernels need and do."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from torch.utils import cpp_extension

import setup
from tests.suite.built import NATIVE, once

CSRC = Path(__file__).parent.parent / "csrc"
# Those of setup.py, for one architecture at a time, and what torch's build adds.
FLAGS = list(setup.NVCC_FLAGS)
FLAGS += ["--expt-relaxed-constexpr", "-DUSE_CUDA", "-Xptxas=-v"]
FLAGS += ["-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra"]
FLAGS += setup.define_flags(SEGLOSS_CUDA_ARCHITECTURES='"none"')
ARCHITECTURES = ("80", "90")
HOST = "90"  # the one for which operators are compiled, see compile_source


def find_tool(name: str) -> str | None:
    """Find a program of the CUDA toolkit, or the one that comes with Triton."""
    try:
        import triton
    except ImportError:
        bundled = Path()
    else:
        bundled = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    toolkit = Path("/usr/local/cuda/bin") / name
    found = [shutil.which(name), *(str(path) for path in (toolkit, bundled) if path.is_file())]
    return next(filter(None, found), None)


NVCC = find_tool("nvcc")


@dataclass(frozen=True)
class Kernel:
    """What a thread of a kernel needs, in bytes but for the registers; shared: of its block."""

    name: str
    registers: int
    stack: int
    spills: int
    shared: int


@cache
def compile_source(
    source: Path, architecture: str, *, few: bool = False
) -> tuple[Path, list[Kernel]]:
    """Compile for one architecture; return the machine code and its kernels. Warnings are errors.

    Operators, which have no kernels or few, go through the host's compiler, too. That takes three
    times as long as the kernels of a file do; what launches those is compiled on the shim.

    Args:
        source: Under csrc.
        architecture: One of ARCHITECTURES.
        few: Leave out variants that differ from others in how they read and write alone.
    """
    if NVCC is None:
        pytest.skip("no nvcc")
    nvcc, primitive = NVCC, source.relative_to(CSRC).parts[0]
    is_operator = "STABLE_TORCH_LIBRARY" in source.read_text()

    def build(folder: Path) -> None:
        command = [
            *(nvcc, *FLAGS, f"-arch=sm_{architecture}", f"-I{CSRC}"),
            *(["-DSEGLOSS_FEW_VARIANTS"] if few else []),
            *(f"-isystem={path}" for path in cpp_extension.include_paths()),
            *("-c" if is_operator and architecture == HOST else "-cubin", str(source)),
            *("-o", str(folder / "kernels.o")),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (folder / "said.txt").write_text(done.stderr)

    name = f"nvcc-{primitive}-{source.stem}-sm_{architecture}" + ("-few" if few else "")
    folder = once(name, NATIVE, build)
    parts = (folder / "said.txt").read_text().split("Compiling entry function ")[1:]
    return folder / "kernels.o", [_kernel(part) for part in parts]


def _kernel(said: str) -> Kernel:
    frame = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    patterns = (r"'(\w+)' for 'sm_\d+'", frame, r"Used (\d+) registers")
    name, memory, registers = (re.search(pattern, said) for pattern in patterns)
    assert name is not None
    assert memory is not None
    assert registers is not None
    shared = re.search(r"(\d+) bytes smem", said)
    stack, stores, loads = (int(number) for number in memory.groups())
    return Kernel(
        name[1], int(registers[1]), stack, stores + loads, int(shared[1]) if shared else 0
    )


def opcodes(compiled: Path) -> dict[str, list[str]]:
    """Return the memory instructions of each kernel."""
    return {
        name: re.findall(r"\b((?:LDG|STG|LDL|STL|ATOMG|RED)[.\w]*)", text)
        for name, text in machine_code(compiled).items()
    }


def machine_code(compiled: Path) -> dict[str, str]:
    """Return the disassembly of each kernel."""
    tool = find_tool("cuobjdump")
    if tool is None:
        pytest.skip("no cuobjdump")
    command = [tool, "-sass", str(compiled)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {function.split()[0]: function for function in re.split(r"Function : ", text)[1:]}
