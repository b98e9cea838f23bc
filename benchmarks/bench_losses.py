"""Losses without a peer of their own against their definitions in eager PyTorch, on the CPU.

    python -m pytest benchmarks/bench_losses.py --benchmark-only -o addopts=

What is measured, and how it is published, is as in bench_region_sums.py. A loss joins by a line in
contenders.LOSSES and one among the eager definitions. ``DeepSupervision`` is DiceCE over five
levels, against MONAI's. A test fails if the two sides do not compute the same.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import compare
from benchmarks.contenders import EAGER, Case, cube, pairs
from benchmarks.harness import MODES, Effort

CASES = [
    *(cube(loss, 4, 128, "native", "eager") for loss in EAGER),
    Case("DeepSupervision", (1, 4, 128, 128, 128), contenders=("native", "eager")),
]
QUICK_CASES = [
    *(cube(loss, 4, 48, "native", "eager") for loss in EAGER),
    Case("DeepSupervision", (1, 4, 48, 48, 48), contenders=("native", "eager")),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    tests, ids = pairs(QUICK_CASES if metafunc.config.getoption("quick") else CASES, MODES)
    metafunc.parametrize(("case", "contender", "mode"), tests, ids=ids)


def test_losses(
    benchmark: BenchmarkFixture, case: Case, contender: str, mode: str, effort: Effort
) -> None:
    compare.run(benchmark, case, contender, mode, effort)
    accuracy = compare.measure(case, effort).accuracy[contender]
    assert max(accuracy.value, accuracy.grad_l2) < 1e-3, f"not the same loss: {accuracy}"
