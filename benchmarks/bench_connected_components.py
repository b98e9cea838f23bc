"""connected_components against connected-components-3d and scipy on the CPU.

    python -m pytest benchmarks/bench_connected_components.py --benchmark-only -o addopts=

A test is one case (labels, size, connectivity) and one contender, one volume a call. As in
bench_region_sums.py, the published times are medians of an interleaved comparison
(``interleaved_ms``); pytest-benchmark's own serve ``--benchmark-compare``. Ours takes torch's
threads, the peers have one. A test fails if a contender numbers any voxel otherwise than ours.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cases.components import CONNECTIVITIES, MASKS, TISSUES, Case
from benchmarks.measure import components, distances
from benchmarks.measure.choice import parametrize
from benchmarks.measure.harness import Effort

SIZES = [(128, 128, 128), (192, 192, 192), (256, 256, 256)]
CASES = [Case(mask, size, how) for size in SIZES for mask in MASKS for how in CONNECTIVITIES]
CASES += [Case(TISSUES, size, how) for size in SIZES[::2] for how in CONNECTIVITIES]
QUICK_CASES = [Case(mask, (64, 64, 64)) for mask in (*MASKS, TISSUES)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, CASES, QUICK_CASES, lambda case: case.contenders)


def test_connected_components(
    benchmark: BenchmarkFixture, case: Case, contender: str, effort: Effort
) -> None:
    measured = components.measure(case, effort)
    taken = measured.times[contender]["both"]
    found = {"loss": "connected_components", "dtype": "uint8" if case.by_value else "bool"}
    memory = {"peak": measured.peak} if contender == "native" else {}
    accuracy = {"components": measured.count}
    distances.record(
        benchmark, case, contender, "cc3d", taken, memory=memory, accuracy=accuracy, **found
    )
    rounds = effort.count(taken.median / 1e3, effort.single, most=50)
    benchmark.pedantic(measured.runs[contender], rounds=rounds)  # type: ignore[no-untyped-call]
    assert measured.equal[contender]
