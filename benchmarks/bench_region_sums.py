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

import functools
import math
import shutil
import warnings
from dataclasses import asdict, dataclass

import pytest
import torch
from monai import losses as monai
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

import segloss_fast
from benchmarks.harness import (
    MODES,
    Accuracy,
    Effort,
    LossFunction,
    Memory,
    Step,
    Timing,
    interleave,
    measure_accuracy,
    measure_memory,
    run_alone,
    solve,
)
from benchmarks.inputs import blob_labels, logits

LOSSES = {
    "Dice": segloss_fast.DiceLoss,
    "DiceCE": segloss_fast.DiceCELoss,
    "DiceFocal": segloss_fast.DiceFocalLoss,
    "Tversky": segloss_fast.TverskyLoss,
    "CE": segloss_fast.CrossEntropyLoss,
}
HALF = (torch.float16, torch.bfloat16)
OURS = ("native", "reference")


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        loss: One of LOSSES.
        shape: ``[B, C, *S]``; C = 1 with sigmoid, more with softmax.
        dtype: Of the input.
        logits: ``"random"`` or ``"saturated"``.
        peers: The contenders besides ``native``.
    """

    loss: str
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    logits: str = "random"
    peers: tuple[str, ...] = ("reference", "eager")

    @property
    def name(self) -> str:
        """The case as an identifier, like ``DiceCE-1x4x128x128x128-float32-random``."""
        return "-".join(
            [self.loss, "x".join(map(str, self.shape)), str(self.dtype)[6:], self.logits]
        )


def _cube(loss: str, classes: int, side: int, *peers: str, **options: object) -> Case:
    shape = (1, classes, side, side, side)
    return Case(loss, shape, peers=peers or ("eager",), **options)  # type: ignore[arg-type]


SMALL = [Case(loss, (2, 4, 64, 64)) for loss in ("Dice", "DiceCE")]
# The reference is slow: timed on the smaller volumes, and where torch.compile is.
CASES = [
    _cube("DiceCE", 4, 128, "reference", "eager", "compiled", "formula"),
    _cube("DiceCE", 4, 128, logits="saturated"),
    _cube("DiceCE", 4, 128, dtype=torch.float16),
    _cube("DiceCE", 4, 128, dtype=torch.bfloat16),
    _cube("DiceCE", 1, 128, "reference", "eager", "compiled"),
    _cube("DiceCE", 2, 128),
    _cube("DiceCE", 14, 128, "reference", "eager", "compiled"),
    *(_cube("DiceCE", classes, 64, "reference", "eager") for classes in (1, 2, 4, 14)),
    _cube("DiceCE", 105, 64),
    _cube("DiceFocal", 4, 128, "reference", "eager", "compiled"),
    _cube("DiceFocal", 4, 128, logits="saturated"),
    *(_cube("DiceFocal", classes, 128) for classes in (1, 14)),
    _cube("DiceFocal", 4, 64, "reference", "eager"),
    _cube("DiceFocal", 105, 64),
    *(_cube("Dice", classes, 128) for classes in (1, 4, 14)),
    _cube("Dice", 4, 64, "reference", "eager"),
    _cube("Dice", 105, 64),
    _cube("Tversky", 4, 128),
    _cube("Tversky", 4, 64, "reference", "eager"),
    *(_cube("CE", classes, 128) for classes in (4, 14)),
    _cube("CE", 4, 64, "reference", "eager"),
    _cube("CE", 105, 64),
    *SMALL,
]
QUICK_CASES = [
    _cube("DiceCE", 4, 64, "reference", "eager", "compiled"),
    _cube("DiceCE", 4, 64, logits="saturated"),
    _cube("DiceCE", 4, 64, dtype=torch.bfloat16),
    _cube("DiceCE", 1, 64),
    _cube("DiceCE", 105, 32),
    _cube("DiceFocal", 4, 64, "reference", "eager"),
    _cube("Tversky", 4, 64),
    _cube("CE", 4, 64),
    *SMALL,
]


def _ours(case: Case, impl: str) -> LossFunction:
    keywords = {"activation": "sigmoid" if case.shape[1] == 1 else "softmax", "impl": impl}
    if case.loss == "DiceFocal":
        keywords["ce_activation"] = "sigmoid"  # as MONAI, also under softmax
    loss: LossFunction = LOSSES[case.loss](**keywords)
    return loss


def _eager(case: Case) -> LossFunction:
    if case.loss == "CE":
        return lambda input, target: cross_entropy(input, target[:, 0])
    options = {"sigmoid": True} if case.shape[1] == 1 else {"softmax": True, "to_onehot_y": True}
    loss: LossFunction = getattr(monai, f"{case.loss}Loss")(**options)
    if case.dtype in HALF:
        return lambda input, target: loss(input.float(), target)
    return loss


def _dice_ce_formula(input: Tensor, target: Tensor) -> Tensor:
    axes = list(range(2, input.dim()))
    p = input.softmax(1)
    t = one_hot(target[:, 0], input.shape[1]).movedim(-1, 1).to(p.dtype)
    dice = (2 * (p * t).sum(axes) + 1e-5) / (p.sum(axes) + t.sum(axes) + 1e-5)
    return 1 - dice.mean() + cross_entropy(input, target[:, 0])


def _contender(case: Case, name: str) -> LossFunction:
    if name in OURS:
        return _ours(case, name)
    if name == "eager":
        return _eager(case)
    # Cases share MONAI's code objects, of which dynamo compiles only so many versions.
    torch.compiler.reset()
    if name == "compiled":
        return torch.compile(_eager(case), dynamic=False)
    return torch.compile(_dice_ce_formula, dynamic=False, fullgraph=True)


def _contenders(case: Case) -> list[str]:
    """Return the contenders that run here."""
    native = any(b.available for b in segloss_fast.backends() if b.impl == "native")
    compiler = shutil.which("g++") or shutil.which("clang++")
    return [
        name
        for name in ("native", *case.peers)
        if (name != "native" or native) and (name not in ("compiled", "formula") or compiler)
    ]


@dataclass(frozen=True)
class Measured:
    """What the tests of a case share: its steps, and what was found about each contender."""

    steps: dict[str, Step]
    times: dict[str, dict[str, Timing]]
    memory: dict[str, Memory]
    accuracy: dict[str, Accuracy]


@functools.lru_cache(maxsize=1)  # one at a time: volumes are large, and tests come case by case
def measure(case: Case, effort: Effort) -> Measured:
    """Compare the contenders of a case, interleaved."""
    labels = blob_labels(case.shape)
    x = logits(labels, case.shape[1], case.logits).to(case.dtype)
    scale = 2.0**16 if case.dtype in HALF else 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.compile and MONAI
        steps = {
            name: Step(_contender(case, name), x.detach().requires_grad_(), labels, scale)
            for name in _contenders(case)
        }
        times = interleave(steps, effort)
        memory = {name: measure_memory(step) for name, step in steps.items()}
        truth = solve(Step(_ours(case, "reference"), x.double().requires_grad_(), labels))
        accuracy = {name: measure_accuracy(step, truth) for name, step in steps.items()}
    return Measured(steps, times, memory, accuracy)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = QUICK_CASES if metafunc.config.getoption("quick") else CASES
    tests = [(case, name, mode) for case in cases for mode in MODES for name in _contenders(case)]
    ids = [f"{case.name}-{mode}-{name}" for case, name, mode in tests]
    metafunc.parametrize(("case", "contender", "mode"), tests, ids=ids)


def test_region_sums(
    benchmark: BenchmarkFixture, case: Case, contender: str, mode: str, effort: Effort
) -> None:
    measured = measure(case, effort)
    times = measured.times[contender]
    accuracy = measured.accuracy[contender]
    benchmark.group = f"{case.name} {mode}"
    benchmark.extra_info.update(
        case=case.name,
        loss=case.loss,
        shape=list(case.shape),
        dtype=str(case.dtype)[6:],
        logits=case.logits,
        peer="torch" if case.loss == "CE" else "MONAI",
        contender=contender,
        mode=mode,
        interleaved_ms={name: time.median for name, time in times.items()},
        interleaved_iqr_ms={name: time.iqr for name, time in times.items()},
        interleaved_rounds=times[mode].rounds,
        memory=asdict(measured.memory[contender]),
        accuracy=asdict(accuracy),
    )
    rounds = effort.count(times[mode].median / 1e3, effort.single, most=50)
    run_alone(benchmark, measured.steps[contender], mode, rounds)
    if contender == "native":
        worst = max(asdict(accuracy).values())
        # The gradient is rounded to the input's dtype once, at most by half of eps.
        assert worst < max(1e-5, torch.finfo(case.dtype).eps), f"{case.name}: {accuracy}"
        assert not math.isnan(worst)
