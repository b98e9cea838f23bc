"""Compiles the Triton kernels of structural_error for GPUs that need not be there."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
import torch

from segloss_fast.ops._triton.launch import Launch
from segloss_fast.ops.structural_error import triton_launch
from tests.ops.triton.compiler import compile_launch, specialization

pytestmark = pytest.mark.compiled

VOLUME = (64, 65, 66)
REGISTERS = {torch.float32: 104, torch.float64: 128}  # 16 warps on a multiprocessor at least


def launches_of(
    dtype: torch.dtype,
    target: torch.dtype = torch.bool,
    space: Sequence[int] = VOLUME,
    planes: tuple[int, int] = (1, 1),
    window_size: int = 3,
    numbers: tuple[float, float, int] = (1.5, 0.01, 0),
) -> list[Launch]:
    """Return all launches, forward and backward."""
    sigma, constant, first = numbers
    with torch.device("meta"):
        values = torch.empty((*planes, *space), dtype=dtype)
        t = torch.empty((*planes, *space), dtype=target)
        work = triton_launch.begin(values, window_size, sigma, constant, first)
        found = list(triton_launch.error_launches(work, values, t))
        found += triton_launch.gradient_launches(work, values, values, t)
    return found


def kernels_of(launches: Sequence[Launch]) -> dict[str, Launch]:
    """Return a launch of each kernel, by what decides how it is compiled."""
    return {f"{launch.kernel.__name__} {specialization(launch)}": launch for launch in launches}


@pytest.mark.parametrize(
    ("dtype", "target", "space", "capability"),
    [
        (torch.float32, torch.bool, VOLUME, 90),
        (torch.float64, torch.float16, VOLUME, 80),
        (torch.float32, torch.int64, (4096,), 80),
    ],
    ids=str,
)
def test_nothing_spills_and_warps_read_neighbours(
    dtype: torch.dtype, target: torch.dtype, space: Sequence[int], capability: int
) -> None:
    launches = kernels_of(launches_of(dtype, target, space))
    kernels = {name: compile_launch(launch, capability) for name, launch in launches.items()}
    for name, found in kernels.items():
        report = found.report()
        assert report["stack"] == report["loop_spills"] == 0, name
        assert report["registers"] <= REGISTERS[dtype], (name, report["registers"])
        assert report["loop_barriers"] == report["loop_shuffles"] == 0, name
        if not name.startswith("window_weights"):
            # Four rows per thread; the lanes of a warp lie along the columns.
            (lanes,) = set(re.findall(r"#ttg.blocked<\{([^}]*)\}>", found.ttgir))
            assert "sizePerThread = [1, 1], threadsPerWarp = [1, 32]" in lanes, name
            assert "order = [1, 0]" in lanes, name


def test_sizes_and_numbers_make_no_new_kernels() -> None:
    def kernels_at(
        space: Sequence[int],
        planes: tuple[int, int] = (1, 1),
        window_size: int = 3,
        numbers: tuple[float, float, int] = (1.5, 0.01, 0),
    ) -> set[str]:
        dtypes = torch.float32, torch.uint8
        return set(kernels_of(launches_of(*dtypes, space, planes, window_size, numbers)))

    volume = kernels_at((16, 16, 16))
    assert len(volume) == 11
    for space in ((1, 1, 1), (5, 1, 7), (300, 4, 31)):
        assert kernels_at(space, (2, 3), 65, (0.3, 0.5, 1)) == volume
    image = kernels_at((16, 16))
    assert image < volume
    assert kernels_at((300, 1), (3, 5), 9, (2.0, 1.0, 2)) == image
    assert kernels_at((4097,), (3, 5), 9, (2.0, 1.0, 2)) == kernels_at((16,))
