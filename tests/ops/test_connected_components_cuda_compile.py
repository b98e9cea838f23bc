"""The CUDA kernels of connected_components as nvcc compiles them: registers, spills, atomics."""

from __future__ import annotations

import pytest

from tests.cuda_shim.operators import CSRC
from tests.nvcc import ARCHITECTURES, HOST, compile_source, opcodes

CUDA = CSRC / "connected_components" / "cuda"

pytestmark = pytest.mark.compiled

KERNELS = {"find": 4, "unite": 5, "number": 5}  # of four sizes of elements; binary; the steps


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_keep_to_registers(name: str, architecture: str) -> None:
    _, kernels = compile_source(CUDA / f"{name}.cu", architecture)
    assert len(kernels) == KERNELS[name]
    for kernel in kernels:
        print(kernel)
        assert kernel.stack == kernel.spills == 0, kernel
        assert kernel.shared <= 64, kernel
        assert kernel.registers <= 64, kernel  # four blocks of 256 threads on a multiprocessor


def test_unions_are_atomic_minima_and_nothing_else_is_atomic() -> None:
    for name in KERNELS:
        compiled, _ = compile_source(CUDA / f"{name}.cu", HOST)
        for kernel, codes in opcodes(compiled).items():
            atomics = {code for code in codes if code.startswith(("ATOM", "RED."))}
            if "unite_kernel" in kernel:
                assert atomics, kernel
                assert all(".MIN" in code for code in atomics), (kernel, atomics)
            else:
                assert not atomics, (kernel, atomics)


def test_host_code_compiles() -> None:
    assert compile_source(CUDA / "op.cu", HOST)[1] == []
