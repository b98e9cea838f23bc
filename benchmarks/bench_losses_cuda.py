"""Losses without a peer of their own against their definitions in eager PyTorch, on a CUDA device.

    python -m pytest benchmarks/bench_losses_cuda.py --benchmark-only -o addopts=

As bench_losses.py. All that works in these losses has Triton kernels, which are measured here; only
some of it has CUDA C++ kernels.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import compare
from benchmarks.contenders import EAGER, Case, cube, pairs
from benchmarks.harness import MODES, Effort

CASES = [cube(loss, 4, 160, "triton", "eager", device="cuda") for loss in EAGER]
QUICK_CASES = [cube(loss, 4, 48, "triton", "eager", device="cuda") for loss in EAGER]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = QUICK_CASES if metafunc.config.getoption("quick") else CASES
    tests, ids = pairs(cases if torch.cuda.is_available() else [], MODES)
    metafunc.parametrize(("case", "contender", "mode"), tests, ids=ids)


def test_losses(
    benchmark: BenchmarkFixture, case: Case, contender: str, mode: str, effort: Effort
) -> None:
    compare.run(benchmark, case, contender, mode, effort)
