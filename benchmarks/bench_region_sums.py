"""Losses over region_sums against MONAI's, and torch's cross_entropy, on the CPU.

    python -m pytest benchmarks/bench_region_sums.py --benchmark-only -o addopts=

A test is one case (loss, shape, dtype, logits), one contender and one mode (forward, backward,
both); pytest-benchmark groups them by case and mode. Two kinds of numbers come out:

* ``interleaved_ms`` in ``extra_info``, by mode: medians of the interleaved comparison (see
  harness), made once per case, before its first test. **All published times and ratios are these.**
* pytest-benchmark's own statistics, of one contender after another. They serve
  ``--benchmark-compare`` across commits; they are not published, because their ratios hold only
  while the machine's load stays the same.

Contenders:

* ``native``, ``reference``: ours, by ``impl``;
* ``eager``: MONAI's loss, or torch's cross_entropy. Half-precision input is widened to float32
  first, as autocast does and as MONAI needs for a right answer at these sizes;
* ``compiled``: the same under torch.compile. MONAI's Dice breaks the graph once, at
  ``arange(...).tolist()``;
* ``formula``: Dice+CE in a few lines of PyTorch, compiled as one graph: what torch.compile can do
  without that break.

A test of ours fails if its answer is wrong: no speed without accuracy.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import compare
from benchmarks.contenders import Case, cube, pairs
from benchmarks.harness import MODES, Effort

SMALL = [Case(loss, (2, 4, 64, 64)) for loss in ("Dice", "DiceCE")]
# The reference is slow: timed on the smaller volumes, and where torch.compile is.
CASES = [
    cube("DiceCE", 4, 128, "native", "reference", "eager", "compiled", "formula"),
    cube("DiceCE", 4, 128, "native", "eager", logits="saturated"),
    cube("DiceCE", 4, 128, "native", "eager", dtype=torch.float16),
    cube("DiceCE", 4, 128, "native", "eager", dtype=torch.bfloat16),
    cube("DiceCE", 1, 128, "native", "reference", "eager", "compiled"),
    cube("DiceCE", 2, 128, "native", "eager"),
    cube("DiceCE", 14, 128, "native", "reference", "eager", "compiled"),
    *(cube("DiceCE", classes, 64, "native", "reference", "eager") for classes in (1, 2, 4, 14)),
    cube("DiceCE", 105, 64, "native", "eager"),
    cube("DiceFocal", 4, 128, "native", "reference", "eager", "compiled"),
    cube("DiceFocal", 4, 128, "native", "eager", logits="saturated"),
    *(cube("DiceFocal", classes, 128, "native", "eager") for classes in (1, 14)),
    cube("DiceFocal", 4, 64, "native", "reference", "eager"),
    cube("DiceFocal", 105, 64, "native", "eager"),
    *(cube("Dice", classes, 128, "native", "eager") for classes in (1, 4, 14)),
    cube("Dice", 4, 64, "native", "reference", "eager"),
    cube("Dice", 105, 64, "native", "eager"),
    cube("Tversky", 4, 128, "native", "eager"),
    cube("Tversky", 4, 64, "native", "reference", "eager"),
    *(cube("CE", classes, 128, "native", "eager") for classes in (4, 14)),
    cube("CE", 4, 64, "native", "reference", "eager"),
    cube("CE", 105, 64, "native", "eager"),
    *SMALL,
    Case("DeepDiceCE", (2, 4, 64, 64, 64)),
]
QUICK_CASES = [
    cube("DiceCE", 4, 64, "native", "reference", "eager", "compiled"),
    cube("DiceCE", 4, 64, "native", "eager", logits="saturated"),
    cube("DiceCE", 4, 64, "native", "eager", dtype=torch.bfloat16),
    cube("DiceCE", 1, 64, "native", "eager"),
    cube("DiceCE", 105, 32, "native", "eager"),
    cube("DiceFocal", 4, 64, "native", "reference", "eager"),
    cube("Tversky", 4, 64, "native", "eager"),
    cube("CE", 4, 64, "native", "eager"),
    *SMALL,
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    tests, ids = pairs(QUICK_CASES if metafunc.config.getoption("quick") else CASES, MODES)
    metafunc.parametrize(("case", "contender", "mode"), tests, ids=ids)


def test_region_sums(
    benchmark: BenchmarkFixture, case: Case, contender: str, mode: str, effort: Effort
) -> None:
    compare.run(benchmark, case, contender, mode, effort)
