"""Losses over region_sums against MONAI's, and torch's cross_entropy.

    python -m pytest benchmarks/bench_region_sums.py --benchmark-only -o addopts=

A test is one case (loss, shape, dtype, logits), one contender and one mode (forward, backward,
both); pytest-benchmark groups them by case and mode. Two kinds of numbers come out:

* ``interleaved_ms`` in ``extra_info``, by mode: medians of the interleaved comparison (see
  harness), made once per case, before its first test. **All published times and ratios are these.**
* pytest-benchmark's own statistics, of one contender after another. They serve
  ``--benchmark-compare`` across commits; they are not published, because their ratios hold only
  while the machine's load stays the same.

Contenders:

* ``native``, ``triton``, ``reference``: ours, by ``impl``; on a CUDA device ``native`` is CUDA C++;
* ``eager``: MONAI's loss, or torch's cross_entropy. Half-precision input is widened to float32
  first, as autocast does and as MONAI needs for a right answer at these sizes;
* ``compiled``: the same under torch.compile. MONAI's Dice breaks the graph once, at
  ``arange(...).tolist()``;
* ``formula``: Dice+CE in a few lines of PyTorch, compiled as one graph: what torch.compile can do
  without that break.

A test of ours fails if its answer is wrong: no speed without accuracy.

A machine with a device may lack MONAI: ``eager`` is then the loss in plain PyTorch, of torch's own
parts (eager_losses.py), and the tables say so. ``floor_bytes`` in ``extra_info`` is what no kernel
can avoid: forward reads logits and labels once; backward reads them again and writes the gradient.
Over the time this is a bandwidth, and the tables show it as a part of that of a copy, measured in
the same run.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cases.contenders import Case, contenders, cube
from benchmarks.measure import compare
from benchmarks.measure.choice import parametrize
from benchmarks.measure.harness import MODES, Effort

KERNELS = ("triton", "native")
PEERS = ("eager", "compiled", "formula")
_EAGER, _PAIR = PEERS[:1], PEERS[:2]
HALF, U8 = torch.bfloat16, torch.uint8


def _cuda(loss: str, classes: int, side: int, *others: str, **options: object) -> Case:
    return cube(loss, classes, side, *KERNELS, *others, device="cuda", **options)


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
    _cuda("DiceCE", 4, 256, "reference", *PEERS),
    _cuda("DiceCE", 4, 256, *_EAGER, logits="saturated"),
    _cuda("DiceCE", 4, 256, *PEERS, dtype=HALF),
    _cuda("DiceCE", 4, 256, dtype=HALF, labels=U8),
    _cuda("DiceCE", 4, 256, labels=U8),
    _cuda("DiceCE", 1, 384, *_EAGER, labels=U8),
    _cuda("DiceCE", 2, 320, *_EAGER),
    _cuda("DiceCE", 3, 288, *_EAGER),
    _cuda("DiceCE", 14, 192, *_PAIR),
    _cuda("DiceCE", 14, 192, *_PAIR, dtype=HALF),
    _cuda("DiceCE", 32, 128, *_EAGER),
    _cuda("DiceCE", 105, 96, *_EAGER),
    _cuda("DiceCE", 105, 96, *_EAGER, dtype=HALF),
    _cuda("DiceCE", 4, 256, *_EAGER, channels_last=True),
    _cuda("DiceCE", 14, 192, *_EAGER, channels_last=True, dtype=HALF),
    _cuda("DiceFocal", 4, 256, *_PAIR),
    _cuda("Dice", 4, 256, *_EAGER),
    _cuda("CE", 4, 256, *_EAGER),
    Case("DiceCE", (2, 4, 128, 128, 128), contenders=(*KERNELS, *_PAIR), device="cuda"),
    Case("DeepDiceCE", (2, 4, 128, 128, 128), contenders=(*KERNELS, *_PAIR), device="cuda"),
    Case("DiceCE", (2, 4, 64, 64), contenders=(*KERNELS, *_EAGER), device="cuda"),
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
    _cuda("DiceCE", 4, 64, "reference", *PEERS),
    _cuda("DiceCE", 105, 32, *_EAGER),
    Case("DeepDiceCE", (2, 4, 64, 64, 64), contenders=(*KERNELS, *_EAGER), device="cuda"),
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, CASES, QUICK_CASES, contenders, MODES)


def test_region_sums(
    benchmark: BenchmarkFixture, case: Case, contender: str, mode: str, effort: Effort
) -> None:
    compare.run(benchmark, case, contender, mode, effort)
