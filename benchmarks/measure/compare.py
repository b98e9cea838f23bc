"""What the tests of a benchmark over region_sums do: compare a case's contenders, and say so."""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import asdict, dataclass

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.cases.contenders import (
    HALF,
    KINKED,
    OURS,
    Case,
    contender,
    contenders,
    make_inputs,
    peer,
    truth,
)
from benchmarks.measure import cuda
from benchmarks.measure.clocks import measure_times
from benchmarks.measure.harness import (
    Accuracy,
    Effort,
    Memory,
    Step,
    Timing,
    measure_accuracy,
    measure_memory,
    run_alone,
    solve,
)
from segloss_fast.ops.region_sums.contract import preference


@dataclass(frozen=True)
class Measured:
    """What the tests of a case share: its steps, and what was found about each contender."""

    steps: dict[str, Step]
    times: dict[str, dict[str, Timing]]
    memory: dict[str, Memory]
    accuracy: dict[str, Accuracy]
    floor: dict[str, int]
    wall: dict[str, dict[str, Timing]]


def compare(steps: dict[str, Step], truth: Step, effort: Effort) -> Measured:
    """Compare the contenders of a case, interleaved, and their answers with the truth."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.compile and the peers
        times, wall = measure_times(steps, effort)
        memory = {name: measure_memory(step) for name, step in steps.items()}
        right = solve(truth)
        accuracy = {name: measure_accuracy(step, right) for name, step in steps.items()}
    one = next(iter(steps.values()))
    floor = cuda.floor_bytes(one.inputs, one.targets)
    return Measured(steps, times, memory, accuracy, floor, wall)


@functools.lru_cache(maxsize=1)  # one at a time: volumes are large, and tests come case by case
def measure(case: Case, effort: Effort) -> Measured:
    """Compare the contenders of a case."""
    inputs, targets = make_inputs(case)
    scale = 2.0**16 if case.dtype in HALF else 1.0
    steps = {name: Step(contender(case, name), inputs, targets, scale) for name in contenders(case)}
    exact = tuple(x.detach().double().requires_grad_() for x in inputs)
    return compare(steps, Step(truth(case), exact, targets), effort)


def record(
    benchmark: BenchmarkFixture,
    measured: Measured,
    contender: str,
    mode: str,
    effort: Effort,
    about: dict[str, object],
) -> Accuracy:
    """Be the test of one case, contender and mode; return how accurate the contender is.

    Args:
        benchmark: The fixture.
        measured: Of the case.
        contender: Its name.
        mode: One of harness.MODES.
        effort: How long to measure.
        about: What the results say of the case (results.SAME), and its name as ``case``.
    """
    times = measured.times[contender]
    benchmark.group = f"{about['case']} {mode}"
    benchmark.extra_info.update(
        **about,
        contender=contender,
        mode=mode,
        interleaved_ms={key: time.median for key, time in times.items()},
        interleaved_iqr_ms={key: time.iqr for key, time in times.items()},
        interleaved_rounds=times[mode].rounds,
        memory=asdict(measured.memory[contender]),
        accuracy=asdict(measured.accuracy[contender]),
        floor_bytes=measured.floor,
        wall_ms={key: time.median for key, time in measured.wall.get(contender, {}).items()},
    )
    rounds = effort.count(times[mode].median / 1e3, effort.single, most=50)
    run_alone(benchmark, measured.steps[contender], mode, rounds)
    return measured.accuracy[contender]


def describe(case: Case, peer: str, ours: str) -> dict[str, object]:
    """Return what the results say of a case: its parameters, whose the peer is, which is ours."""
    return {
        "case": case.name,
        "loss": case.loss,
        "shape": list(case.shape),
        "dtype": str(case.dtype)[6:],
        "logits": case.logits,
        "peer": peer,
        "device": case.device,
        "ours": ours,
    }


def run(benchmark: BenchmarkFixture, case: Case, name: str, mode: str, effort: Effort) -> None:
    """Be the test of one case, contender and mode; fail if an answer of ours is wrong."""
    measured = measure(case, effort)
    ours = preference(measured.steps[name].inputs)[0]
    about = describe(case, peer(case), ours)
    accuracy = record(benchmark, measured, name, mode, effort, about)
    if name in OURS and name != "reference":
        worst = max(asdict(accuracy).values())
        # The gradient is rounded to the input's dtype once, at most by half of eps.
        limit = max(1e-5, torch.finfo(case.dtype).eps)
        if case.loss in KINKED:
            limit = max(limit, 2 * max(asdict(measured.accuracy["eager"]).values()))
        assert worst < limit, f"{case.name}: {accuracy}, at most {limit}"
        assert not math.isnan(worst)
