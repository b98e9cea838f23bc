"""component_sums against region_sums, and losses over components against eager PyTorch, on CPUs.

    python -m pytest benchmarks/bench_component_sums.py --benchmark-only -o addopts=

A test is one case (loss, mask, size) and one contender, forward and backward. As in
bench_region_sums.py, the published times are medians of an interleaved comparison
(``interleaved_ms``); pytest-benchmark's own serve ``--benchmark-compare``. A loss finds its
components, and its cells, inside of what is timed, unless they are given. A test of ours fails if
its loss is not the eager one with our cells, which SciPy's equal but for ties, or its sums over all
cells are not those of region_sums.
"""

from __future__ import annotations

import functools

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cases.component_losses import (
    GIVEN,
    LOSSES,
    TERMS,
    Case,
    contender,
    eager_value,
    make_problem,
)
from benchmarks.measure import distances
from benchmarks.measure.choice import parametrize
from benchmarks.measure.harness import Effort, interleave

SIZE = (128, 128, 128)
KINDS = (*TERMS, *LOSSES, GIVEN)
CASES = [Case(loss, mask, SIZE) for mask in ("lesions", "blobs") for loss in KINDS]
QUICK_CASES = [Case(loss, "lesions", (48, 48, 48)) for loss in KINDS]
MOST_OFF = {"sums": 1e-5, "losses": 1e-4}  # eager PyTorch adds in float32


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, CASES, QUICK_CASES, lambda case: case.contenders)


@functools.lru_cache(maxsize=1)  # one at a time: volumes are large, and tests come case by case
def measure(case: Case, effort: Effort) -> distances.Measured:
    """Compare the contenders of a case, interleaved."""
    problem = make_problem(case)
    runs = {name: contender(case, name, problem) for name in case.contenders}
    times = interleave(
        {name: functools.partial(distances.timed, run) for name, run in runs.items()}, effort
    )
    ours = runs["native"]()[0]
    if case.loss in TERMS:
        ours, theirs = ours.sum(3), runs["region_sums"]()[0]
    else:
        theirs = eager_value(case, problem)
    error = float(((ours - theirs).abs() / theirs.abs()).max())
    peak = distances.peak(runs["native"]) - 4 * problem.x.numel()
    return distances.Measured(dict(runs), times, peak, {"value": error})


def test_component_sums(
    benchmark: BenchmarkFixture, case: Case, contender: str, effort: Effort
) -> None:
    measured = measure(case, effort)
    taken = measured.times[contender]["both"]
    ours = contender == "native"
    found = {"memory": {"peak": measured.peak}, "accuracy": measured.errors} if ours else {}
    peer = case.contenders[1]
    labels = {"loss": case.loss, "dtype": "float32"}
    distances.record(benchmark, case, contender, peer, taken, **labels, **found)
    rounds = effort.count(taken.median / 1e3, effort.single, most=50)
    benchmark.pedantic(measured.runs[contender], rounds=rounds)  # type: ignore[no-untyped-call]
    if ours:
        assert measured.errors["value"] < MOST_OFF["sums" if case.loss in TERMS else "losses"]
