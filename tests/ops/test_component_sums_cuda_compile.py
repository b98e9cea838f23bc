"""The CUDA kernels of component_sums as nvcc compiles them: registers, spills, memory, atomics."""

from __future__ import annotations

import pytest

from tests.cuda_shim.operators import CSRC
from tests.nvcc import ARCHITECTURES, HOST, compile_source, opcodes

CUDA = CSRC / "component_sums" / "cuda"

pytestmark = pytest.mark.compiled

KERNELS = {"forward": 4, "backward": 4, "finish": 1}  # of the dtypes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_keep_to_registers(name: str, architecture: str) -> None:
    _, kernels = compile_source(CUDA / f"{name}.cu", architecture)
    assert len(kernels) == KERNELS[name]
    for kernel in kernels:
        print(kernel)
        assert kernel.stack == kernel.spills == kernel.shared == 0, kernel
        # Two blocks of 256 threads on a multiprocessor, of float64 one.
        assert kernel.registers <= (255 if "kernelId" in kernel.name else 128), kernel


def test_rows_move_16_bytes_at_a_time_and_only_integers_are_added() -> None:
    for name in ("forward", "backward"):
        for kernel, codes in opcodes(compile_source(CUDA / f"{name}.cu", HOST)[0]).items():
            wide = any(code.startswith("LDG.E") and "128" in code for code in codes)
            assert wide or "kernelId" in kernel, kernel  # four of float64 are 32 bytes
            assert not any(code.startswith(("LDL", "STL")) for code in codes), kernel
            atomics = {code for code in codes if code.startswith(("ATOM", "RED.", "REDG"))}
            assert bool(atomics) == (name == "forward"), (kernel, atomics)
            assert not any(".F32" in code or ".F64" in code for code in atomics), atomics


def test_host_code_compiles() -> None:
    assert compile_source(CUDA / "op.cu", HOST)[1] == []
