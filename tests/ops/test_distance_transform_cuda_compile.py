"""Compiles the CUDA kernels of distance_transform with nvcc, and looks at what they need."""

from __future__ import annotations

import pytest

from tests.nvcc import HOST, compile_source
from tests.ops.distance_transform_shim import CUDA

pytestmark = pytest.mark.compiled

# Types in and out; types, sides, staged; types in; keys or pairs, staged.
KERNELS = {"runs": 4 * 3, "lines": 3 * 2 * 2, "nearest_runs": 4, "nearest_lines": 2 * 2}
# Two blocks of 256 threads, or one of 1024, on a multiprocessor of 65536 registers.
MOST_REGISTERS = {"runs": 128, "lines": 64, "nearest_runs": 128, "nearest_lines": 64}


@pytest.mark.parametrize(
    ("architecture", "name"),
    [("90", "runs"), ("80", "lines"), ("80", "nearest_runs"), ("90", "nearest_lines")],
)
def test_kernels_keep_to_registers(architecture: str, name: str) -> None:
    _, kernels = compile_source(CUDA / f"{name}.cu", architecture)
    assert len(kernels) == KERNELS[name]
    for kernel in kernels:
        print(kernel)
        assert kernel.stack == kernel.spills == 0, kernel
        assert kernel.registers <= MOST_REGISTERS[name], kernel
        assert kernel.shared == 0, kernel  # all of it is dynamic


@pytest.mark.parametrize("name", ["op", "nearest_op"])
def test_host_code_compiles(name: str) -> None:
    compile_source(CUDA / f"{name}.cu", HOST)
