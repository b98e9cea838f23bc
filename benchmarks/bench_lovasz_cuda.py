"""The Lovász losses on a CUDA device: against the published algorithm, and the speed of a copy.

    python -m pytest benchmarks/bench_lovasz_cuda.py --benchmark-only -o addopts=

As bench_lovasz.py, with ``histogram`` and ``sort`` in CUDA C++, and the histogram's Triton kernels.
``floor_bytes`` in ``extra_info`` is what no kernel can avoid: forward reads logits and labels once;
backward reads them again and writes the gradient. Over the time this is a bandwidth, and the tables
show it as a part of that of a copy, measured in the same run.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import lovasz
from benchmarks.harness import MODES, Effort
from benchmarks.lovasz import PEERS, Case, cube

OURS = ("histogram", "triton", "sort")
PLAIN = (*OURS, "eager")
ALL = (*OURS, *PEERS)
KINDS = [(logits, share) for logits in ("random", "saturated") for share in (0.3, 0.01)]


def _cube(loss: str, classes: int, side: int, kind: tuple[str, float], *names: str) -> Case:
    return cube(loss, classes, side, *kind, *names, device="cuda")


CASES = [
    *(_cube("LovaszSoftmax", 4, 256, k, *(PLAIN if k != KINDS[0] else ALL)) for k in KINDS),
    *(_cube("LovaszSoftmax", 14, 256, k, *(PLAIN if k != KINDS[0] else ALL)) for k in KINDS),
    *(
        cube("LovaszSoftmax", 4, 256, *k, *PLAIN, device="cuda", dtype=torch.bfloat16)
        for k in (KINDS[0], KINDS[3])
    ),
    *(_cube("LovaszHinge", 1, 256, k, *(PLAIN if k != KINDS[0] else ALL)) for k in KINDS),
    *(_cube("LovaszSigmoid", 1, 256, k, *PLAIN) for k in (KINDS[0], KINDS[3])),
    *(_cube("LovaszSoftmax", 4, 128, k, *PLAIN) for k in (KINDS[0], KINDS[3])),
    _cube("LovaszSoftmax", 105, 96, KINDS[0], *PLAIN),
    _cube("LovaszSoftmax", 4, 64, KINDS[0], *ALL),
]
QUICK_CASES = [
    _cube("LovaszSoftmax", 4, 64, KINDS[0], *ALL),
    _cube("LovaszHinge", 1, 64, KINDS[3], *ALL),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = QUICK_CASES if metafunc.config.getoption("quick") else CASES
    tests, ids = lovasz.pairs(cases if torch.cuda.is_available() else [], MODES)
    metafunc.parametrize(("case", "contender", "mode"), tests, ids=ids)


def test_lovasz(
    benchmark: BenchmarkFixture, case: Case, contender: str, mode: str, effort: Effort
) -> None:
    lovasz.run(benchmark, case, contender, mode, effort)
