"""nearest_component against distance_transform, and against SciPy's indices, on the CPU.

    python -m pytest benchmarks/bench_nearest_component.py --benchmark-only -o addopts=

As bench_distance_transform.py. Labels are components, int32; the distances alone are those of a
bool mask, with ``side="outside"``. Ours and those have the same threads, SciPy has one. A test of
ours fails if a distance is wrong, or if more labels differ from SciPy's than ties can explain.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cases.distances import Case
from benchmarks.cases.nearest import CONTENDERS, LABELS, contender, make_labels
from benchmarks.measure import distances
from benchmarks.measure.choice import parametrize
from benchmarks.measure.harness import Effort, interleave
from segloss_fast import nearest_component

THICK, IRRATIONAL = (3.0, 0.8, 0.8), (math.sqrt(2), 1.0, math.pi)
SIZES = [(128, 128, 128), (256, 256, 256)]
CASES = [Case(labels, size) for size in SIZES for labels in LABELS]
CASES += [Case(labels, SIZES[0], IRRATIONAL) for labels in LABELS]
CASES += [Case(labels, (48, 512, 512), THICK) for labels in LABELS]
QUICK_CASES = [Case(labels, (64, 64, 64)) for labels in LABELS]
QUICK_CASES += [Case("blobs", (64, 64, 64), IRRATIONAL)]
MOST_TIES = 0.15


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, CASES, QUICK_CASES, lambda case: CONTENDERS)


@functools.lru_cache(maxsize=1)  # one at a time: volumes are large, and tests come case by case
def measure(case: Case, effort: Effort) -> distances.Measured:
    """Compare the contenders of a case, interleaved; errors are in distances, and in labels."""
    labels = make_labels(case)
    runs = {name: contender(case, name, labels) for name in CONTENDERS}
    timed = {name: functools.partial(distances.timed, run) for name, run in runs.items()}
    nearest, found = nearest_component(labels, case.spacing, distance=True, impl="native")
    true = np.asarray(runs["distance_transform"]())
    error = float((np.abs(found.numpy() - true) / np.maximum(true, min(case.spacing))).max())
    ties = float((nearest[0, 0].numpy() != np.asarray(runs["scipy"]())).mean())
    peak = distances.peak(runs["native"]) - 4 * labels.numel()
    times = interleave(timed, effort)
    return distances.Measured(runs, times, peak, {"value": error, "ties": ties})


def test_nearest_component(
    benchmark: BenchmarkFixture, case: Case, contender: str, effort: Effort
) -> None:
    measured = measure(case, effort)
    taken = measured.times[contender]["both"]
    ours = contender == "native"
    found = {"memory": {"peak": measured.peak}, "accuracy": measured.errors} if ours else {}
    labels = {"loss": "nearest_component", "dtype": "int32"}
    distances.record(benchmark, case, contender, "scipy", taken, **labels, **found)
    rounds = effort.count(taken.median / 1e3, effort.single, most=50)
    benchmark.pedantic(measured.runs[contender], rounds=rounds)  # type: ignore[no-untyped-call]
    if ours:
        assert measured.errors["value"] < 2e-6
        assert measured.errors["ties"] < MOST_TIES
