"""The CUDA kernels of region_sums as nvcc compiles them: registers, spills, wide memory access."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.nvcc import ARCHITECTURES, HOST, compile_source, opcodes
from tests.ops.region_sums_cuda import SOURCES

KERNELS = 8  # of forward, and of backward
pytestmark = [pytest.mark.compiled, pytest.mark.parametrize("architecture", ARCHITECTURES)]


def source_of(name: str) -> Path:
    return next(source for source in SOURCES if source.stem == name)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_kernel_spills(architecture: str, source: Path) -> None:
    if source.stem == "backward" and architecture != HOST:
        pytest.skip("what it shares with the forward kernels is compiled for both")
    _, kernels = compile_source(source, architecture)
    assert len(kernels) == (1 if source.stem == "op" else KERNELS)
    for kernel in kernels:
        print(kernel)
        assert kernel.stack == 0, kernel
        assert kernel.spills == 0, kernel
        # Enough blocks of 128 threads: five on a multiprocessor of the kernels of softmax, two of
        # others, of which the one for float64 and any terms needs the most registers.
        softmax_of_float = re.search(
            r"kernelIfNS\d_5FixedILj\d+ELNS\d_10ActivationE0E", kernel.name
        )
        assert kernel.registers <= (96 if softmax_of_float else 224), kernel


def test_rows_move_16_bytes_at_a_time(architecture: str) -> None:
    for source in ("forward", "backward") if architecture == HOST else ("forward",):
        found = opcodes(compile_source(source_of(source), architecture)[0])
        assert len(found) == KERNELS
        for name, codes in found.items():
            assert any(code.startswith("LDG.E") and "128" in code for code in codes), name
            if source == "backward":
                assert any(code.startswith("STG.E") and "128" in code for code in codes), name
            assert not any(code.startswith(("LDL", "STL", "ATOMG", "RED")) for code in codes), name
