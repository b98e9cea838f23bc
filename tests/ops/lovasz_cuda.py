"""The CUDA kernels of lovasz as operators on the CPU: built against tests/cuda_shim."""

from __future__ import annotations

from pathlib import Path

from tests.ops import region_sums_cuda

CUDA = region_sums_cuda.CSRC / "lovasz/cuda"
SORT = "sort_cub"  # CUB's part, for which the CPU has a stand-in
SOURCES = sorted(CUDA.glob("*.cu"))
LIBRARY = "segloss_fast_lovasz_shim"


def build_library(output: Path, *, sanitize: bool = False) -> Path:
    """Compile the CUDA sources into a library of operators for CPU tensors."""
    sources = [path for path in SOURCES if path.stem != SORT]
    sources.append(Path(__file__).parent / "lovasz_sort_shim.cpp")
    return region_sums_cuda.build_library(
        output, sanitize=sanitize, sources=sources, library=LIBRARY
    )
