"""Whole steps of DiceCE on patches as people train with, in two regimes of memory, on the CPU.

    python benchmarks/run.py patches

runs this file twice, with memory as the C library handles it and with recycled memory
(measure/memory.py), because half of what eager code takes may be page faults. The two losses run
in turn: before each step of ours MONAI's has run and left in the caches what it touched, as the
layers of a network would. What is measured, and how it is published, is as in
bench_region_sums.py; page faults a step are counted besides.
"""

from __future__ import annotations

import functools

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cases.contenders import Case, contenders, cube
from benchmarks.measure import compare
from benchmarks.measure.choice import parametrize
from benchmarks.measure.harness import Effort
from benchmarks.measure.memory import count_faults

pytest.importorskip("monai")  # with which the tables compare
SIDES = (48, 64, 96, 128)


def _patch(loss: str, classes: int, side: int, labels: torch.dtype = torch.uint8) -> Case:
    return cube(loss, classes, side, "native", "eager", labels=labels)


CASES = [
    *(_patch("DiceCE", 4, side) for side in SIDES),
    *(_patch("DiceCE", 4, side, torch.int64) for side in SIDES),
    _patch("DiceCE", 2, 96),
    _patch("DiceCE", 14, 96),
    _patch("Dice", 4, 96),
    _patch("DiceFocal", 4, 96),
]
QUICK_CASES = [_patch("DiceCE", 4, 48)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, CASES, QUICK_CASES, contenders)


@functools.lru_cache(maxsize=1)
def faults(case: Case, effort: Effort) -> dict[str, int]:
    """Return the page faults of a step of each contender."""
    return count_faults(compare.measure(case, effort).steps)


def test_patches(benchmark: BenchmarkFixture, case: Case, contender: str, effort: Effort) -> None:
    compare.run(benchmark, case, contender, "both", effort)
    benchmark.extra_info["memory"]["faults"] = faults(case, effort)[contender]
