"""What the kernels in CUDA C++ need, as nvcc compiles them for sm_90: no instructions per element.

Their loops run over shares of classes, candidates or bins, whose number the code alone does not
tell; so there are bounds instead of predictions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from benchmarks.model.device import Native
from tests.nvcc import CSRC, compile_source

ARCHITECTURE = "90"
CUBE = 256**3
ROWS = (4 * 4 + 1, 2 * 4 * 4 + 1)  # bytes per voxel of four classes in float32, and labels of one


@dataclass(frozen=True)
class Source:
    """A kernel to look at.

    Attributes:
        what: In words.
        path: Below csrc.
        name: A pattern of its mangled name.
        threads: Of a block, as it is launched.
        bytes: That it must move in the case named.
    """

    what: str
    path: str
    name: str
    threads: int
    bytes: int


# The terms of Dice and cross-entropy are 4145 as bits; Li4: four classes in registers.
SOURCES = (
    Source(
        "region_sums forward, DiceCE, C=105 96^3",
        "region_sums/cuda/forward.cu",
        r"forward_kernelIf\w+FixedILj4145E",
        128,
        96**3 * (4 * 105 + 1),
    ),
    Source(
        "region_sums backward, DiceCE, C=105 96^3",
        "region_sums/cuda/backward.cu",
        r"backward_kernelIf\w+FixedILj4145E",
        128,
        96**3 * (2 * 4 * 105 + 1),
    ),
    Source(
        "lovasz histogram, C=4 256^3",
        "lovasz/cuda/count.cu",
        r"count_kernelI\w+ToCountersEfLi4E",
        512,
        CUBE * ROWS[0],
    ),
    Source(
        "lovasz histogram, C=14 256^3",
        "lovasz/cuda/count.cu",
        r"count_kernelI\w+ToCountersEfLi0E",
        512,
        CUBE * (4 * 14 + 1 + 2 * 4),
    ),
    Source(
        "lovasz histogram, C=14 256^3, the softmax's statistics before",
        "lovasz/cuda/statistics.cu",
        r"statistics_kernelIfE",
        256,
        CUBE * (4 * 14 + 2 * 4),
    ),
    Source(
        "lovasz backward, C=4 256^3",
        "lovasz/cuda/backward.cu",
        r"cuda\d+backward_kernelIfLi4E",
        512,
        CUBE * ROWS[1],
    ),
    Source(
        "component_sums forward, C=2 256^3, cells",
        "component_sums/cuda/forward.cu",
        r"forward_kernelIfE",
        256,
        CUBE * (4 * 2 + 1 + 4),
    ),
    Source(
        "component_sums backward, C=2 256^3, cells",
        "component_sums/cuda/backward.cu",
        r"backward_kernelIfE",
        256,
        CUBE * (2 * 4 * 2 + 1 + 4),
    ),
    Source(
        "distances along rows, 256^3",
        "distance_transform/cuda/runs.cu",
        r"runs_kernelIhs",
        256,
        CUBE * 3,
    ),
    Source(
        "distances along another axis, 256^3",
        "distance_transform/cuda/lines.cu",
        r"lines_kernelI\w+DistancesIiLb0EEELb1E",
        256,
        CUBE * 8,
    ),
)


def count(source: Source, *, few: bool = False) -> Native:
    """Compile a kernel, and count; ``few`` leaves out others of its file, as for compile_source."""
    _, kernels = compile_source(CSRC / source.path, ARCHITECTURE, few=few)
    found = [kernel for kernel in kernels if re.search(source.name, kernel.name)]
    if len(found) != 1:
        raise ValueError(f"{source.path} must have one kernel {source.name}, has {len(found)}")
    (kernel,) = found
    return Native(source.what, kernel.registers, kernel.spills, source.threads, source.bytes)


def count_all() -> list[Native]:
    """Compile, and count, all of them."""
    return [count(source) for source in SOURCES]
