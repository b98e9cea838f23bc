"""The Lovász losses against the published algorithm and its copies, on the CPU.

    python -m pytest benchmarks/bench_lovasz.py --benchmark-only -o addopts=

What is measured, and how it is published, is as in bench_region_sums.py; the contenders are in
lovasz.py. Errors are against the exact sort of the same input in float64.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import lovasz
from benchmarks.harness import MODES, Effort
from benchmarks.lovasz import PEERS, Case, cube

OURS = ("histogram", "sort")
PLAIN = (*OURS, "eager")
ALL = (*OURS, *PEERS)
KINDS = [(logits, share) for logits in ("random", "saturated") for share in (0.3, 0.01)]
# The published algorithm takes seconds: the slowest contenders are timed in fewer cases.
CASES = [
    *(
        cube("LovaszSoftmax", 4, 128, *kind, *(PLAIN if kind != KINDS[0] else ALL))
        for kind in KINDS
    ),
    *(cube("LovaszSoftmax", 14, 128, *kind, *PLAIN) for kind in (KINDS[0], KINDS[3])),
    cube("LovaszHinge", 1, 128, *KINDS[0], *ALL),
    *(cube("LovaszHinge", 1, 128, *kind, *PLAIN) for kind in KINDS[1:]),
    *(cube("LovaszSigmoid", 1, 128, *kind, *PLAIN) for kind in KINDS),
    *(cube("LovaszSoftmax", classes, 64, *KINDS[0], *ALL) for classes in (4, 14)),
    cube("LovaszHinge", 1, 64, *KINDS[0], *ALL),
    cube("LovaszSigmoid", 1, 64, *KINDS[0], *PLAIN, "compiled"),
    Case("LovaszSoftmax", (1, 4, 256, 256), *KINDS[0][::-1], ALL),
    Case("LovaszHinge", (1, 1, 256, 256), *KINDS[0][::-1], ALL),
]
QUICK_CASES = [
    cube("LovaszSoftmax", 4, 64, *KINDS[0], *ALL),
    cube("LovaszSoftmax", 4, 64, *KINDS[3], *PLAIN),
    cube("LovaszSoftmax", 14, 48, *KINDS[1], *PLAIN),
    cube("LovaszHinge", 1, 64, *KINDS[0], *ALL),
    cube("LovaszSigmoid", 1, 64, *KINDS[3], *PLAIN),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = QUICK_CASES if metafunc.config.getoption("quick") else CASES
    tests, ids = lovasz.pairs(cases, MODES)
    metafunc.parametrize(("case", "contender", "mode"), tests, ids=ids)


def test_lovasz(
    benchmark: BenchmarkFixture, case: Case, contender: str, mode: str, effort: Effort
) -> None:
    lovasz.run(benchmark, case, contender, mode, effort)
