"""The losses over distance_transform against MONAI's, which calls SciPy, on the CPU.

    python -m pytest benchmarks/bench_hausdorff.py --benchmark-only -o addopts=

What is measured, and how it is published, is as in bench_region_sums.py; the background counts in
both. The reference is left out: its distance_transform compares all pairs of a line, for minutes at
these sizes. Errors are therefore against MONAI's loss of the same input in float64.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cases.contenders import Case, contenders, cube
from benchmarks.measure import compare
from benchmarks.measure.choice import parametrize
from benchmarks.measure.harness import MODES, Effort

CASES = [
    *(cube("HausdorffDT", 1, side, "native", "eager") for side in (96, 128, 192)),
    cube("HausdorffDT", 1, 128, "native", "eager", logits="saturated"),
    cube("HausdorffDT", 4, 128, "native", "eager"),
    *(cube("Boundary", 1, side, "native", "eager") for side in (96, 128)),
    cube("Boundary", 4, 128, "native", "eager"),
]
QUICK_CASES = [
    cube("HausdorffDT", 1, 48, "native", "eager"),
    cube("HausdorffDT", 4, 32, "native", "eager"),
    cube("Boundary", 1, 48, "native", "eager"),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, CASES, QUICK_CASES, contenders, MODES)


def test_hausdorff(
    benchmark: BenchmarkFixture, case: Case, contender: str, mode: str, effort: Effort
) -> None:
    compare.run(benchmark, case, contender, mode, effort)
