"""How all benchmarks measure: interleaved timing, memory, accuracy.

* Time: contenders run in turn in one process on the same inputs, one step each per round, in an
  order that rotates, so that a change in the machine's load meets all of them; the number is the
  median over rounds. The gradient is allocated anew in every step, as in training. The thread count
  is fixed. On a GPU that time is the device's own, by replays from a cold cache; that of eager
  steps on the wall is measured beside it (clocks.py).
* Memory: torch's profiler (on a GPU its allocator) reports every allocation; the gradient's own
  storage is left out, and the inputs were there before.
* Accuracy: against the reference implementation in float64 on the same (rounded) input.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.cases.inputs import LossFunction, Tensors
from benchmarks.measure import cuda

MODES = ("forward", "backward", "both")
# Runs a contender once; returns the seconds it took, by mode.
Run = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        interleaved: Seconds for the interleaved comparison of a case.
        single: Seconds for each contender and mode under pytest-benchmark alone.
        rounds: At least so many rounds of both, whatever they take.
    """

    interleaved: float
    single: float
    rounds: int

    def count(self, seconds: float, budget: float, most: int = 300) -> int:
        """Return how many rounds of so many seconds to run within the budget."""
        return max(self.rounds, min(most, int(budget / max(seconds, 1e-9))))


FULL = Effort(interleaved=4.0, single=0.5, rounds=5)
QUICK = Effort(interleaved=0.5, single=0.1, rounds=3)


@dataclass(frozen=True)
class Timing:
    """Milliseconds per step: median and interquartile range over so many rounds."""

    median: float
    iqr: float
    rounds: int


def timing(seconds: Sequence[float]) -> Timing:
    """Return the quartiles of so many measurements."""
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Timing(1e3 * median, 1e3 * (high - low), len(seconds))


def interleave(runs: Mapping[str, Run], effort: Effort) -> dict[str, dict[str, Timing]]:
    """Run the contenders in turn, after two warm-up runs each.

    Args:
        runs: The contenders by name.
        effort: How many rounds.

    Returns:
        Per contender and mode, its time.
    """
    names = list(runs)
    for name in names:
        runs[name]()
    rounds = effort.count(sum(max(runs[name]().values()) for name in names), effort.interleaved)
    taken: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            # Who follows whom decides what is in the caches: rotate.
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                for mode, seconds in runs[name]().items():
                    taken[name].setdefault(mode, []).append(seconds)
    finally:
        gc.enable()
    return {
        name: {mode: timing(seconds) for mode, seconds in modes.items()}
        for name, modes in taken.items()
    }


@dataclass(frozen=True)
class Step:
    """One training step of a loss: forward, then the gradient of the inputs.

    Attributes:
        loss: Called with inputs and targets.
        inputs: Require grad.
        targets: Labels, one per input.
        scale: Gradient of the loss: a loss scale, without which half-precision gradients underflow.
    """

    loss: LossFunction
    inputs: Tensors
    targets: Tensors
    scale: float = 1.0

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a CUDA device."""
        return self.inputs[0].is_cuda

    def forward(self) -> Tensor:
        """Return the loss with its graph, as in training."""
        return self.loss(self.inputs, self.targets)

    def backward(self, value: Tensor) -> Tensors:
        """Return the scaled gradients in new buffers."""
        return torch.autograd.grad(value, self.inputs, torch.full_like(value, self.scale))

    def __call__(self) -> dict[str, float]:
        """Run the step on the host's clock; return the seconds of each mode."""
        clock = HostClock()
        value = self.forward()
        clock.tick()
        # Kept until the clock has stopped: freeing the gradient is no part of the loss.
        grads = self.backward(value)
        forward, backward = clock.stop()
        del grads
        return {"forward": forward, "backward": backward, "both": forward + backward}


class HostClock:
    """Seconds of two phases by the host's clock; runs from its making."""

    def __init__(self) -> None:
        self._times = [time.perf_counter()]

    def tick(self) -> None:
        """Begin the second phase."""
        self._times.append(time.perf_counter())

    def stop(self) -> tuple[float, float]:
        """End the second phase; return both durations."""
        start, middle = self._times
        end = time.perf_counter()
        return middle - start, end - middle


@dataclass(frozen=True)
class Memory:
    """Bytes above inputs and gradient: alive between forward and backward, and at the highest."""

    saved: int
    peak: int


def measure_memory(step: Step) -> Memory:
    """Count the allocations of one step, which has run before: compiled code compiles then."""
    if step.on_gpu:
        return Memory(*cuda.memory(step.forward, step.backward))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        value = step.forward()
        with torch.profiler.record_function("segloss_fast::between"):
            pass
        grads = step.backward(value)
    own = {grad.untyped_storage().data_ptr() for grad in grads}
    events = list(_events(profiler.profiler.kineto_results.experimental_event_tree()))
    between = next(e.start_time_ns for e in events if e.name == "segloss_fast::between")
    changes = sorted(
        (
            (e.start_time_ns, e.extra_fields.ptr, e.extra_fields.alloc_size)
            for e in events
            if e.name == "[memory]"
        ),
        key=lambda change: change[0],
    )
    # A temporary may have had the address before: the gradient is the last allocation there.
    last = {ptr: i for i, (_, ptr, size) in enumerate(changes) if ptr in own and size > 0}
    total = saved = peak = 0
    for i, (when, _, size) in enumerate(changes):
        if i in last.values():
            continue
        total += size
        peak = max(peak, total)
        if when < between:
            saved = total
    return Memory(saved, peak)


def _events(tree: Sequence[Any]) -> Iterator[Any]:
    for event in tree:
        yield event
        yield from _events(event.children)


@dataclass(frozen=True)
class Accuracy:
    """Errors against float64.

    Attributes:
        value: |difference| / |value| of the loss.
        grad_l2: Norm of the gradient's difference / norm of the gradient.
        grad_max: Largest |difference| of the gradient / its largest |value|.
    """

    value: float
    grad_l2: float
    grad_max: float


def solve(step: Step) -> tuple[float, Tensor]:
    """Return the loss and, in float64, its gradients in one row."""
    value = step.forward()
    grads = torch.cat([grad.flatten() for grad in step.backward(value)])
    return float(value.detach()), grads.double() / step.scale


def measure_accuracy(step: Step, truth: tuple[float, Tensor]) -> Accuracy:
    """Compare a step with what ``solve`` returned for the float64 one."""
    true_value, true_grad = truth
    value, grad = solve(step)
    difference = grad.sub_(true_grad)
    return Accuracy(
        abs(value - true_value) / abs(true_value),
        float(torch.linalg.vector_norm(difference) / torch.linalg.vector_norm(true_grad)),
        float(
            torch.linalg.vector_norm(difference, math.inf)
            / torch.linalg.vector_norm(true_grad, math.inf)
        ),
    )


def run_alone(benchmark: BenchmarkFixture, step: Step, mode: str, rounds: int) -> None:
    """Time one mode of a step under pytest-benchmark, on its own.

    Args:
        benchmark: The fixture.
        step: Has run before.
        mode: One of MODES.
        rounds: How often.
    """
    kept: list[object] = []  # the result, freed by the next setup: not while the clock runs

    def wait() -> None:
        if step.on_gpu:
            torch.cuda.synchronize()

    def setup() -> None:
        kept.clear()
        if mode == "backward":
            kept.append(step.forward())
        wait()

    def target() -> None:
        value = kept[0] if mode == "backward" else step.forward()
        assert isinstance(value, Tensor)
        kept.append(value if mode == "forward" else step.backward(value))
        wait()

    benchmark.pedantic(target, setup=setup, rounds=rounds)  # type: ignore[no-untyped-call]
