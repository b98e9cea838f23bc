"""Losses over region_sums on a CUDA device: against MONAI's, and against the speed of a copy.

    python -m pytest benchmarks/bench_region_sums_cuda.py --benchmark-only -o addopts=

As bench_region_sums.py, with these contenders: ``triton`` and ``native`` (CUDA C++), ours;
``reference``; ``eager``, ``compiled`` and ``formula`` as there. Without MONAI, which only ``eager``
and ``compiled`` need, the others are compared.

``floor_bytes`` in ``extra_info`` is what no kernel can avoid: forward reads logits and labels once;
backward reads them again and writes the gradient. Over the time this is a bandwidth, and the tables
show it as a part of that of a copy, measured in the same run.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import compare
from benchmarks.contenders import Case, cube, pairs
from benchmarks.harness import MODES, Effort

KERNELS = ("triton", "native")
PEERS = ("eager", "compiled", "formula") if find_spec("monai") else ("formula",)
HALF, U8 = torch.bfloat16, torch.uint8


def _cube(loss: str, classes: int, side: int, *others: str, **options: object) -> Case:
    return cube(loss, classes, side, *KERNELS, *others, device="cuda", **options)


_EAGER = tuple(name for name in PEERS if name == "eager")
_PAIR = tuple(name for name in PEERS if name != "formula")
CASES = [
    _cube("DiceCE", 4, 256, "reference", *PEERS),
    _cube("DiceCE", 4, 256, *_EAGER, logits="saturated"),
    _cube("DiceCE", 4, 256, *PEERS, dtype=HALF),
    _cube("DiceCE", 4, 256, dtype=HALF, labels=U8),
    _cube("DiceCE", 4, 256, labels=U8),
    _cube("DiceCE", 1, 384, *_EAGER, labels=U8),
    _cube("DiceCE", 2, 320, *_EAGER),
    _cube("DiceCE", 3, 288, *_EAGER),
    _cube("DiceCE", 14, 192, *_PAIR),
    _cube("DiceCE", 14, 192, *_PAIR, dtype=HALF),
    _cube("DiceCE", 32, 128, *_EAGER),
    _cube("DiceCE", 105, 96, *_EAGER),
    _cube("DiceCE", 105, 96, *_EAGER, dtype=HALF),
    _cube("DiceCE", 4, 256, *_EAGER, channels_last=True),
    _cube("DiceCE", 14, 192, *_EAGER, channels_last=True, dtype=HALF),
    _cube("DiceFocal", 4, 256, *_PAIR),
    _cube("Dice", 4, 256, *_EAGER),
    _cube("CE", 4, 256, *_EAGER),
    Case("DiceCE", (2, 4, 128, 128, 128), contenders=(*KERNELS, *_PAIR), device="cuda"),
    Case("DeepDiceCE", (2, 4, 128, 128, 128), contenders=(*KERNELS, *_PAIR), device="cuda"),
    Case("DiceCE", (2, 4, 64, 64), contenders=(*KERNELS, *_EAGER), device="cuda"),
]
QUICK_CASES = [
    _cube("DiceCE", 4, 64, "reference", *PEERS),
    _cube("DiceCE", 105, 32, *_EAGER),
    Case("DeepDiceCE", (2, 4, 64, 64, 64), contenders=(*KERNELS, *_EAGER), device="cuda"),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = QUICK_CASES if metafunc.config.getoption("quick") else CASES
    tests, ids = pairs(cases if torch.cuda.is_available() else [], MODES)
    metafunc.parametrize(("case", "contender", "mode"), tests, ids=ids)


def test_region_sums(
    benchmark: BenchmarkFixture, case: Case, contender: str, mode: str, effort: Effort
) -> None:
    compare.run(benchmark, case, contender, mode, effort)
