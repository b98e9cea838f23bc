"""Losses without a peer of their own against their definitions in eager PyTorch.

    python -m pytest benchmarks/bench_losses.py --benchmark-only -o addopts=

What is measured, and how it is published, is as in bench_region_sums.py. A loss joins by a line in
contenders.LOSSES and one among the eager definitions. ``DeepSupervision`` is DiceCE over five
levels, against MONAI's. A test fails if the two sides differ in float64. On a CUDA device Triton's
kernels are measured, which there are for all that works in these losses.
"""

from __future__ import annotations

import functools

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cases.contenders import EAGER, Case, contenders, cube, make_inputs, truth
from benchmarks.cases.contenders import contender as loss_of
from benchmarks.measure import compare
from benchmarks.measure.choice import parametrize
from benchmarks.measure.harness import MODES, Accuracy, Effort, Step, measure_accuracy, solve

CASES = [
    *(cube(loss, 4, 128, "native", "eager") for loss in EAGER),
    Case("DeepSupervision", (1, 4, 128, 128, 128), contenders=("native", "eager")),
    *(cube(loss, 4, 160, "triton", "eager", device="cuda") for loss in EAGER),
]
SMALL = (1, 4, 32, 32, 32)  # where two sides are compared in float64
QUICK_CASES = [
    *(cube(loss, 4, 48, "native", "eager") for loss in EAGER),
    Case("DeepSupervision", (1, 4, 48, 48, 48), contenders=("native", "eager")),
    *(cube(loss, 4, 48, "triton", "eager", device="cuda") for loss in EAGER),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, CASES, QUICK_CASES, contenders, MODES)


def test_losses(
    benchmark: BenchmarkFixture, case: Case, contender: str, mode: str, effort: Effort
) -> None:
    compare.run(benchmark, case, contender, mode, effort)
    accuracy = disagreement(Case(case.loss, SMALL))
    assert max(accuracy.value, accuracy.grad_l2) < 1e-9, f"not the same loss: {accuracy}"


@functools.cache
def disagreement(case: Case) -> Accuracy:
    """Compare the eager definition with our reference in float64: rounding is no difference."""
    inputs, targets = make_inputs(case)
    exact = tuple(x.detach().double().requires_grad_() for x in inputs)
    right = solve(Step(truth(case), exact, targets))
    return measure_accuracy(Step(loss_of(case, "eager"), exact, targets), right)
