"""The CUDA kernels of region_masks as nvcc compiles them: registers, spills, wide memory access."""

from __future__ import annotations

import re

import pytest

from tests.nvcc import HOST, compile_source, opcodes
from tests.ops.region_masks_shim import CUDA

pytestmark = pytest.mark.compiled

KERNELS = 12  # softmax of four types, thresholds, labels; of one voxel and of four


def test_kernels_keep_to_registers() -> None:
    _, kernels = compile_source(CUDA / "masks.cu", HOST)
    assert len(kernels) == KERNELS
    for kernel in kernels:
        print(kernel)
        assert kernel.stack == kernel.spills == kernel.shared == 0, kernel
        # Three blocks of 256 threads on a multiprocessor of 65536 registers, two of float64.
        assert kernel.registers <= (128 if "softmax_kernelId" in kernel.name else 80), kernel


def widths(codes: list[str], name: str) -> set[str]:
    """Return the widths of loads or stores, "32" where the instruction names none."""
    found = [re.search(r"\.(U8|S8|U16|S16|64|128)\b", code) for code in codes if code[:3] == name]
    return {"32" if width is None else width[1] for width in found}


@pytest.mark.parametrize(
    ("kernel", "bits"), [("f", "128"), ("6__half", "64"), ("13__nv_bfloat16", "64"), ("d", "128")]
)
def test_four_voxels_are_loaded_and_written_at_once(kernel: str, bits: str) -> None:
    compiled, _ = compile_source(CUDA / "masks.cu", HOST)
    (codes,) = (
        codes for name, codes in opcodes(compiled).items() if f"softmax_kernelI{kernel}Li4E" in name
    )
    assert widths(codes, "STG") == {"32"}
    assert bits in widths(codes, "LDG")
    assert not any(code.startswith(("LDL", "STL", "ATOMG", "RED")) for code in codes)


def test_host_code_compiles() -> None:
    assert compile_source(CUDA / "op.cu", HOST)[1] == []
