"""One class's Lovász loss of more and more voxels: time and gradient error, for the plot.

    python -m pytest benchmarks/bench_lovasz_voxels.py --benchmark-only -o addopts=

As bench_lovasz.py: one sigmoid, random logits, 1 % foreground. The published algorithm's float32
gradient is a difference of nearly equal numbers, the more so the more voxels there are.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cases.lovasz import Case, contenders, cube
from benchmarks.measure import lovasz
from benchmarks.measure.choice import parametrize
from benchmarks.measure.harness import Effort

CASES = [
    cube("LovaszSigmoid", 1, side, "random", 0.01, "histogram", "sort", "eager")
    for side in (24, 32, 48, 64, 96, 128, 192, 256)
]
QUICK_CASES = CASES[:4]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, CASES, QUICK_CASES, contenders, ("both",))


def test_lovasz_voxels(
    benchmark: BenchmarkFixture, case: Case, contender: str, mode: str, effort: Effort
) -> None:
    lovasz.run(benchmark, case, contender, mode, effort)
