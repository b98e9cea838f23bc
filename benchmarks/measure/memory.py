"""The two regimes of memory that a step on the CPU may run in, and the page faults of a step.

The C library gives a large buffer back to the system when it is freed, and the system then clears
each page that is touched for the first time. A loss in tensor operations makes many such buffers a
step, so that half of its time can be page faults; where memory is recycled, as by jemalloc, by
tcmalloc, or by glibc under the variables below, it has none. Both are measured.
"""

from __future__ import annotations

import os
import resource
import statistics
from collections.abc import Callable, Mapping

# By regime: what has to be in the environment before the process begins.
REGIMES = {
    "default": {},
    "recycled": {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "4000000000",
        "MALLOC_TOP_PAD_": "500000000",
    },
}


def regime() -> str:
    """Return the regime that this process runs in."""
    recycled = REGIMES["recycled"]
    return "recycled" if recycled.items() <= os.environ.items() else "default"


def environment(name: str) -> dict[str, str]:
    """Return this process's environment, changed for a child process in that regime."""
    plain = {key: value for key, value in os.environ.items() if key not in REGIMES["recycled"]}
    return {**plain, **REGIMES[name]}


def count_faults(steps: Mapping[str, Callable[[], object]], rounds: int = 5) -> dict[str, int]:
    """Return how many page faults a step of each contender takes: medians over rounds, in turn."""
    counts: dict[str, list[int]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            step()
            counts[name].append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return {name: int(statistics.median(found)) for name, found in counts.items()}
