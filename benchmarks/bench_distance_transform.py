"""distance_transform against the edt package and scipy, on the CPU, one mask a call.

    python -m pytest benchmarks/bench_distance_transform.py --benchmark-only -o addopts=

A test is one case (mask, size, spacing) and one contender. As in bench_region_sums, the published
times are medians of an interleaved comparison (``interleaved_ms``); pytest-benchmark's own serve
``--benchmark-compare``. edt and ours use the same number of threads, scipy has one. All return the
distances inside of a bool mask; edt and ours in float32, scipy in float64.

A test of ours fails if its answer is wrong: no speed without accuracy.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.distances import HEAD, MASKS, TISSUES, Case, measure
from benchmarks.harness import Effort

ANISOTROPIC = (3.0, 0.8, 0.8)
SIZES = [(128, 128, 128), (96, 160, 160), (192, 192, 192), (256, 256, 256)]
CASES = [Case(mask, size) for size in SIZES for mask in MASKS]
CASES += [Case(mask, (48, 512, 512), ANISOTROPIC) for mask in MASKS]
CASES += [Case(tissue, HEAD) for tissue in TISSUES]
QUICK_CASES = [Case(mask, (64, 64, 64)) for mask in MASKS]
QUICK_CASES += [Case("blobs", (24, 128, 128), ANISOTROPIC)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = QUICK_CASES if metafunc.config.getoption("quick") else CASES
    pairs = [(case, name) for case in cases for name in case.contenders]
    ids = [f"{case.name}-{name}" for case, name in pairs]
    metafunc.parametrize(("case", "contender"), pairs, ids=ids)


def test_distance_transform(
    benchmark: BenchmarkFixture, case: Case, contender: str, effort: Effort
) -> None:
    measured = measure(case, effort)
    timing = measured.times[contender]["both"]
    benchmark.group = case.name
    benchmark.extra_info.update(
        case=case.name,
        loss="distance_transform",
        shape=[1, 1, *case.size],
        dtype="bool",
        logits=case.kind,
        peer="edt",
        device="cpu",
        ours="native",
        contender=contender,
        mode="both",
        interleaved_ms={"both": timing.median},
        interleaved_iqr_ms={"both": timing.iqr},
        interleaved_rounds=timing.rounds,
        memory={"peak": measured.peak} if contender == "native" else {},
        accuracy={"value": measured.errors[contender]},
        floor_bytes={},
    )
    rounds = effort.count(timing.median / 1e3, effort.single, most=50)
    benchmark.pedantic(measured.runs[contender], rounds=rounds)  # type: ignore[no-untyped-call]
    if contender == "native":
        assert measured.errors[contender] < 2e-6
