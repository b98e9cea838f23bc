"""The CUDA kernels of lovasz as nvcc compiles them: registers, spills, wide memory access."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.nvcc import ARCHITECTURES, HOST, compile_source, machine_code, opcodes
from tests.ops.lovasz_cuda import LONG, SOURCES

pytestmark = [pytest.mark.compiled, pytest.mark.parametrize("architecture", ARCHITECTURES)]

# Kernels of ours in each file: dtypes, by the classes in registers and what else they are for.
KERNELS = {
    "count": 3 + 2 + 3,
    "keys": 3 + 3,
    "backward": (3 + 2 + 2) + 3,
    "statistics": 4,
    "scan": 2 + 1,
    "finish": 2,
    "ties": 2 + 2 + 1,
}


def source_of(name: str) -> Path:
    return next(source for source in SOURCES if source.stem == name)


@pytest.mark.parametrize("name", KERNELS)
def test_no_kernel_spills(architecture: str, name: str) -> None:
    if name in LONG and architecture != HOST:
        pytest.skip("take a minute; the other kernels are compiled for both")
    _, kernels = compile_source(source_of(name), architecture, few=name in LONG)
    assert len(kernels) == KERNELS[name]
    for kernel in kernels:
        print(kernel)
        assert kernel.stack == 0, kernel
        assert kernel.spills == 0, kernel
        # A block of 512 threads fits; and the binary losses' counting twice.
        alone = re.search(r"ToCountersE(f|6__half)Lin1E", kernel.name)
        assert kernel.registers <= (64 if alone else 128), kernel


def test_cub_compiles(architecture: str) -> None:
    if architecture != HOST:
        pytest.skip("the kernels are CUB's")
    _, kernels = compile_source(source_of("sort_cub"), architecture)
    assert kernels


def test_rows_move_16_bytes_at_a_time(architecture: str) -> None:
    """Logits of float32 and their gradients; counters take their own atomics in shared memory."""
    if architecture != HOST:
        pytest.skip("their kernels are compiled for one")
    for name, classes in (("count", "0|4"), ("backward", "4|14")):
        found = opcodes(compile_source(source_of(name), architecture, few=True)[0])
        rows = {
            k: codes
            for k, codes in found.items()
            if re.search(rf"(ToCountersE|kernelI)fLi({classes})E", k)
        }
        assert len(rows) == 2
        for kernel, codes in rows.items():
            assert any(code.startswith("LDG.E") and "128" in code for code in codes), kernel
            if name == "backward":
                assert any(code.startswith("STG.E") and "128" in code for code in codes), kernel
        for kernel, codes in found.items():
            assert not any(code.startswith(("LDL", "STL")) for code in codes), kernel


def test_two_exponentials_for_a_voxel_and_class(architecture: str) -> None:
    """Of more than four classes: one for the statistics of the softmax, one where it is counted."""
    if architecture != HOST:
        pytest.skip("their kernels are compiled for one")
    # For one class of a thread's four voxels; for four classes of one voxel, or what is left.
    for name, of, count in (("count", "ToCountersEfLi0E", 4), ("statistics", "kernelIfE", 4 + 1)):
        compiled, kernels = compile_source(source_of(name), architecture, few=name in LONG)
        (kernel,) = [k.name for k in kernels if of in k.name]
        assert len(re.findall(r"\bMUFU\.EX2\b", machine_code(compiled)[kernel])) == count
