"""The Lovász losses against the published algorithm and its copies.

    python -m pytest benchmarks/bench_lovasz.py --benchmark-only -o addopts=

What is measured, and how it is published, is as in bench_region_sums.py; the contenders are in
cases/lovasz.py. Errors are against the exact sort of the same input in float64. On a CUDA device
``histogram`` and ``sort`` are in CUDA C++, and the histogram's Triton kernels join them.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cases.lovasz import PEERS, Case, contenders, cube
from benchmarks.measure import lovasz
from benchmarks.measure.choice import parametrize
from benchmarks.measure.harness import MODES, Effort

OURS = ("histogram", "sort")
PLAIN = (*OURS, "eager")
ALL = (*OURS, *PEERS)
KINDS = [(logits, share) for logits in ("random", "saturated") for share in (0.3, 0.01)]


def _cuda(
    loss: str,
    classes: int,
    side: int,
    kind: tuple[str, float],
    *names: str,
    dtype: torch.dtype = torch.float32,
) -> Case:
    ours = ("histogram", "triton", "sort")
    return cube(loss, classes, side, *kind, *ours, *names, device="cuda", dtype=dtype)


def _peers(kind: tuple[str, float]) -> tuple[str, ...]:
    """Return all of them for one kind; others, which take seconds, are timed in fewer cases."""
    return PEERS if kind == KINDS[0] else PEERS[:1]


CASES = [
    *(cube("LovaszSoftmax", 4, 128, *kind, *OURS, *_peers(kind)) for kind in KINDS),
    *(cube("LovaszSoftmax", 14, 128, *kind, *PLAIN) for kind in (KINDS[0], KINDS[3])),
    *(cube("LovaszHinge", 1, 128, *kind, *OURS, *_peers(kind)) for kind in KINDS),
    *(cube("LovaszSigmoid", 1, 128, *kind, *PLAIN) for kind in KINDS),
    *(cube("LovaszSoftmax", classes, 64, *KINDS[0], *ALL) for classes in (4, 14)),
    cube("LovaszHinge", 1, 64, *KINDS[0], *ALL),
    cube("LovaszSigmoid", 1, 64, *KINDS[0], *PLAIN, "compiled"),
    Case("LovaszSoftmax", (1, 4, 256, 256), *KINDS[0][::-1], ALL),
    Case("LovaszHinge", (1, 1, 256, 256), *KINDS[0][::-1], ALL),
    *(_cuda("LovaszSoftmax", 4, 256, kind, *_peers(kind)) for kind in KINDS),
    *(_cuda("LovaszSoftmax", 14, 256, kind, *_peers(kind)) for kind in KINDS),
    *(
        _cuda("LovaszSoftmax", 4, 256, kind, "eager", dtype=torch.bfloat16)
        for kind in (KINDS[0], KINDS[3])
    ),
    *(_cuda("LovaszHinge", 1, 256, kind, *_peers(kind)) for kind in KINDS),
    *(_cuda("LovaszSigmoid", 1, 256, kind, "eager") for kind in (KINDS[0], KINDS[3])),
    *(_cuda("LovaszSoftmax", 4, 128, kind, "eager") for kind in (KINDS[0], KINDS[3])),
    _cuda("LovaszSoftmax", 105, 96, KINDS[0], "eager"),
    _cuda("LovaszSoftmax", 4, 64, KINDS[0], *PEERS),
]
QUICK_CASES = [
    cube("LovaszSoftmax", 4, 64, *KINDS[0], *ALL),
    cube("LovaszSoftmax", 4, 64, *KINDS[3], *PLAIN),
    cube("LovaszSoftmax", 14, 48, *KINDS[1], *PLAIN),
    cube("LovaszHinge", 1, 64, *KINDS[0], *ALL),
    cube("LovaszSigmoid", 1, 64, *KINDS[3], *PLAIN),
    _cuda("LovaszSoftmax", 4, 64, KINDS[0], *PEERS),
    _cuda("LovaszHinge", 1, 64, KINDS[3], *PEERS),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, CASES, QUICK_CASES, contenders, MODES)


def test_lovasz(
    benchmark: BenchmarkFixture, case: Case, contender: str, mode: str, effort: Effort
) -> None:
    lovasz.run(benchmark, case, contender, mode, effort)
