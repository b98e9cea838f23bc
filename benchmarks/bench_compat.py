"""The drop-in classes against the classes that they replace, on the CPU.

    python -m pytest benchmarks/bench_compat.py --benchmark-only -o addopts=

Both are constructed with the same options and called with the same tensors: the volume of one item
and four classes, or of as many as the class takes, and a small batch of images. kornia's losses of
images get the volume's slices below each other. What is measured, and how it is published, is as
in bench_region_sums.py, but for fewer repeats of what takes seconds. Errors are against the peer
in float64. A test fails if the two sides are not the same loss.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, replace

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.cases import dropins
from benchmarks.cases.contenders import Case
from benchmarks.cases.dropins import DROPINS, DropIn, Loss
from benchmarks.cases.inputs import Tensors
from benchmarks.measure import compare
from benchmarks.measure.choice import parametrize
from benchmarks.measure.harness import Effort, Step

LARGE, SMALL, QUICK = (1, 128, 3), (2, 64, 2), (1, 24, 3)
CONTENDERS = ("native", "eager")
FEWEST = 2  # rounds of what takes seconds


@dataclass(frozen=True)
class Comparison:
    """A drop-in, and the shape of its input."""

    dropin: DropIn
    shape: tuple[int, ...]
    device = "cpu"

    @property
    def name(self) -> str:
        """The case as an identifier."""
        return self.about.name

    @property
    def about(self) -> Case:
        """What the results say of it."""
        return Case(f"{self.dropin.peer}.{self.dropin.name}", self.shape, contenders=CONTENDERS)


def comparisons(*sizes: tuple[int, int, int]) -> list[Comparison]:
    """Return the classes with inputs of these batches, sides and ranks."""
    shapes = [(dropin, dropin.shape(*size)) for size in sizes for dropin in DROPINS]
    return [Comparison(dropin, shape) for dropin, shape in shapes if shape is not None]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases, quick = comparisons(LARGE, SMALL), comparisons(QUICK, SMALL)
    parametrize(metafunc, cases, quick, lambda case: CONTENDERS)


def _step(case: Comparison, loss: Loss, inputs: Tensors, targets: Tensors) -> Step:
    def called(inputs: Tensors, targets: Tensors) -> Tensor:
        return case.dropin.call(loss, inputs, *targets)

    return Step(called, inputs, targets)


@functools.lru_cache(maxsize=1)
def measure(case: Comparison, effort: Effort) -> compare.Measured:
    """Compare the two sides."""
    rank = len(case.shape) - 2
    losses = {"native": dropins.ours, "eager": dropins.theirs}
    inputs, targets = case.dropin.inputs(case.shape), case.dropin.targets(case.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steps = {
            name: _step(case, make(case.dropin, rank), inputs, targets)
            for name, make in losses.items()
        }
        return compare.compare(steps, _truth(case, steps["eager"]), effort)


def _truth(case: Comparison, step: Step) -> Step:
    """Return the peer in float64, or in float32 where it takes nothing else."""
    if not case.dropin.widens:
        return step
    exact = tuple(x.detach().double().requires_grad_() for x in step.inputs)
    wide = tuple(t.double() if t.is_floating_point() else t for t in step.targets)
    peer = dropins.double(dropins.theirs(case.dropin, len(case.shape) - 2))
    return _step(case, peer, exact, wide)


def test_compat(
    benchmark: BenchmarkFixture, case: Comparison, contender: str, effort: Effort
) -> None:
    effort = replace(effort, rounds=FEWEST)
    about = compare.describe(case.about, dropins.PEERS[case.dropin.peer], "native")
    accuracy = compare.record(benchmark, measure(case, effort), contender, "both", effort, about)
    # The tests of the drop-ins show more; the peer's own rounding is not ours to judge.
    assert contender == "eager" or accuracy.value < 1e-3, f"not the same loss: {accuracy}"
