"""How distance_transform is measured: distances inside of masks have no gradient, nor logits."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch.profiler import ProfilerActivity, profile

from benchmarks.cases import nearest
from benchmarks.cases.distances import CONTENDERS, Case, CudaCase, contender, make_mask
from benchmarks.measure import cuda
from benchmarks.measure.harness import Effort, Timing, interleave, timing

FLUSH = 256 << 20
ROUNDS = 20
UNLESS_FOUND = {"loss": "distance_transform", "dtype": "bool"}
UNLESS_MEASURED: dict[str, dict[str, float]] = {"memory": {}, "accuracy": {}, "floor_bytes": {}}


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
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    del result  # after the clock has stopped
    return {"both": seconds}


def peak(run: Callable[[], object]) -> int:
    """Return the most bytes that a call holds at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    held = most = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def on_device(call: Callable[[], object]) -> Timing:
    """Return the time on the current stream, by the device's clock, from a cold cache."""
    spoiler = torch.empty(FLUSH, dtype=torch.uint8, device="cuda")
    seconds = []
    for _ in range(ROUNDS):
        spoiler.zero_()
        clock = cuda.Clock()
        clock.tick()
        call()
        seconds.append(clock.stop()[1])
    return timing(seconds)


def record(
    benchmark: BenchmarkFixture,
    case: Case | CudaCase | nearest.Case,
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
        **found: ``memory``, ``accuracy`` and ``floor_bytes``, where they were measured; ``loss``
            and ``dtype``, where they are not those of distance_transform's masks.
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
        **{**UNLESS_FOUND, **UNLESS_MEASURED, **found},
    )
