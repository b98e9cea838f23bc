"""How distance_transform is measured: distances inside of masks have no gradient, nor logits."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pytest_benchmark.fixture import BenchmarkFixture
from torch.profiler import ProfilerActivity, profile

from benchmarks.cases.distances import CONTENDERS, Case, contender, make_mask
from benchmarks.measure import cuda
from benchmarks.measure.choice import Measurable
from benchmarks.measure.harness import Effort, Timing, interleave, timing

ROUNDS = 20
DEFAULTS: dict[str, object] = {
    **{"loss": "distance_transform", "dtype": "bool"},
    **{"memory": {}, "accuracy": {}, "floor_bytes": {}},
}


class Recorded(Measurable, Protocol):
    """A case, as it is kept."""

    @property
    def shape(self) -> list[int]:
        """Of what is given to the operator."""

    @property
    def kind(self) -> str:
        """What it is given."""


@dataclass(frozen=True)
class Measured:
    """What the tests of a case share.

    Attributes:
        runs: The contenders.
        times: Their times, under the mode ``both``, like those of the losses.
        peak: Bytes that ours allocates above the output.
        errors: Largest error of each, relative to scipy's float64.
    """

    runs: dict[str, Callable[[], object]]
    times: dict[str, dict[str, Timing]]
    peak: int
    errors: dict[str, float]


@functools.lru_cache(maxsize=1)  # one at a time: volumes are large, and tests come case by case
def measure(case: Case, effort: Effort) -> Measured:
    """Compare the contenders of a case, interleaved."""
    import numpy as np
    import scipy.ndimage  # a machine with a device may not have it

    mask = make_mask(case)
    runs = {name: contender(case, name, mask) for name in CONTENDERS}
    times = interleave({name: functools.partial(timed, run) for name, run in runs.items()}, effort)
    truth = np.asarray(scipy.ndimage.distance_transform_edt(mask.numpy(), sampling=case.spacing))
    errors = {}
    for name, run in runs.items():
        found = np.asarray(run()).reshape(truth.shape)
        errors[name] = float((np.abs(found - truth) / np.maximum(truth, min(case.spacing))).max())
    return Measured(runs, times, peak(runs["native"]) - 4 * mask.numel(), errors)


def timed(run: Callable[[], object]) -> dict[str, float]:
    """Return the seconds of a call."""
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    del result  # after the clock has stopped
    return {"both": seconds}


def peak(run: Callable[[], object]) -> int:
    """Return the most bytes that torch's allocator held during a call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    held = most = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def on_device(call: Callable[[], object]) -> tuple[Timing, Timing]:
    """Return the time on the device, from a cold cache, and the eager one on the wall."""
    replay = cuda.Replay(call)
    return timing([replay() for _ in range(ROUNDS)]), timing(cuda.wall_seconds(call, ROUNDS))


def record(
    benchmark: BenchmarkFixture,
    case: Recorded,
    contender: str,
    peer: str,
    taken: Timing,
    **found: object,
) -> None:
    """Say what was found about one contender of a case.

    Args:
        benchmark: The fixture.
        case: What was measured.
        contender: Its name.
        peer: Whom ours is compared with.
        taken: The contender's time.
        **found: ``memory``, ``accuracy``, ``floor_bytes`` and ``wall_ms``, where measured; ``loss``
            and ``dtype``, where they are not those of DEFAULTS.
    """
    benchmark.group = case.name
    benchmark.extra_info.update(
        case=case.name,
        shape=case.shape,
        logits=case.kind,
        peer=peer,
        device=case.device,
        ours="native",
        contender=contender,
        mode="both",
        interleaved_ms={"both": taken.median},
        interleaved_iqr_ms={"both": taken.iqr},
        interleaved_rounds=taken.rounds,
        **{**DEFAULTS, **found},
    )
