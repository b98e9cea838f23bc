"""The CUDA kernels of region_sums as nvcc compiles them: registers, spills, wide memory access."""

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
from tests.ops.region_sums_cuda import CSRC, SOURCES

# Those of setup.py, for one architecture at a time, and what torch's build adds.
NVCC_FLAGS = [flag for flag in setup.NVCC_FLAGS if "-gencode" not in flag]
NVCC_FLAGS += ["--expt-relaxed-constexpr", "-DUSE_CUDA"]
NVCC_FLAGS += setup.define_flags(SEGLOSS_CUDA_ARCHITECTURES='"none"')
ARCHITECTURES = ("80", "90")
KERNELS = 8  # of forward, and of backward


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
pytestmark = [
    pytest.mark.kernels,
    pytest.mark.skipif(NVCC is None, reason="no nvcc"),
    pytest.mark.parametrize("architecture", ARCHITECTURES),
]


@dataclass(frozen=True)
class Kernel:
    name: str
    registers: int
    stack: int
    spills: int


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nvcc")


@cache
def compile_source(source: Path, architecture: str, folder: Path) -> tuple[Path, list[Kernel]]:
    """Compile for one architecture; return the machine code and what its kernels take."""
    output = folder / f"{source.stem}.sm_{architecture}.cubin"
    assert NVCC is not None
    command = [
        *(NVCC, "-cubin", *NVCC_FLAGS, f"-arch=sm_{architecture}", "-Xptxas", "-v"),
        f"-I{CSRC}",
        *(f"-isystem={path}" for path in cpp_extension.include_paths()),
        *(str(source), "-o", str(output)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    pattern = (
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers"
    )
    return output, [
        Kernel(name, int(registers), int(stack), int(stores) + int(loads))
        for name, stack, stores, loads, registers in re.findall(pattern, done.stderr, re.DOTALL)
    ]


def source_of(name: str) -> Path:
    return next(source for source in SOURCES if source.stem == name)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_kernel_spills(architecture: str, source: Path, folder: Path) -> None:
    _, kernels = compile_source(source, architecture, folder)
    assert len(kernels) == (1 if source.stem == "binding" else KERNELS)
    for kernel in kernels:
        print(kernel)
        assert kernel.stack == 0, kernel
        assert kernel.spills == 0, kernel
        # Enough blocks of 128 threads: five on a multiprocessor of the kernels of softmax.
        softmax_of_float = re.search(
            r"kernelIfNS\d_5FixedILj\d+ELNS\d_10ActivationE0E", kernel.name
        )
        assert kernel.registers <= (96 if softmax_of_float else 200), kernel


def memory_instructions(source: Path, architecture: str, folder: Path) -> dict[str, list[str]]:
    """Return those of each kernel."""
    tool = find_tool("cuobjdump")
    if tool is None:
        pytest.skip("no cuobjdump")
    cubin, _ = compile_source(source, architecture, folder)
    text = subprocess.run([tool, "-sass", str(cubin)], capture_output=True, text=True, check=True)
    functions = re.split(r"Function : ", text.stdout)[1:]
    return {
        function.split()[0]: re.findall(r"\b((?:LDG|STG|LDL|STL|ATOMG|RED)[.\w]*)", function)
        for function in functions
    }


def test_rows_move_16_bytes_at_a_time(architecture: str, folder: Path) -> None:
    for source in ("forward", "backward"):
        found = memory_instructions(source_of(source), architecture, folder)
        assert len(found) == KERNELS
        for name, codes in found.items():
            assert any(code.startswith("LDG.E") and "128" in code for code in codes), name
            if source == "backward":
                assert any(code.startswith("STG.E") and "128" in code for code in codes), name
            assert not any(code.startswith(("LDL", "STL", "ATOMG", "RED")) for code in codes), name
