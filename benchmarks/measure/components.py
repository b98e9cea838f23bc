"""How connected_components is measured: components have no gradient, and one right answer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.cases.components import Case, contender, make_labels
from benchmarks.measure.distances import peak, timed
from benchmarks.measure.harness import Effort, Timing, interleave


@dataclass(frozen=True)
class Measured:
    """What the tests of a case share.

    Attributes:
        runs: The contenders.
        times: Their times, under the mode ``both``, like those of the losses.
        peak: Bytes that ours allocates above the output.
        count: How many components there are.
        equal: Whether each contender numbers all voxels as ours does.
    """

    runs: dict[str, Callable[[], object]]
    times: dict[str, dict[str, Timing]]
    peak: int
    count: int
    equal: dict[str, bool]


@functools.lru_cache(maxsize=1)  # one at a time: volumes are large, and tests come case by case
def measure(case: Case, effort: Effort) -> Measured:
    """Compare the contenders of a case, interleaved."""
    labels = make_labels(case)
    runs = {name: contender(case, name, labels) for name in case.contenders}
    times = interleave({name: functools.partial(timed, run) for name, run in runs.items()}, effort)
    ours = np.asarray(runs["native"]()).reshape(case.size)
    equal = {
        name: np.array_equal(np.asarray(runs[name]()).reshape(case.size), ours) for name in runs
    }
    extra = peak(runs["native"]) - 4 * labels.numel()
    return Measured(runs, times, extra, int(ours.max()), equal)
