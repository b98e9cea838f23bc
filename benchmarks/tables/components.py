"""The tables of the benchmarks of connected_components and component_sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.measure.results import Case, Result
from benchmarks.tables.cells import number, ratio, speed, table

PEERS = ("cc3d", "scipy")


def block(result: Result) -> list[str] | None:
    """Return the paragraphs of a result, None if it is of another benchmark."""
    if result.benchmark == "component_sums":
        return _sums_block(result)
    if result.benchmark != "connected_components":
        return None
    return [
        "One volume a call; medians of interleaved repeats. Ours has all threads, "
        "connected-components-3d and scipy have one. All number alike, voxel by voxel. MB are "
        "ours, above the output.",
        _times(result.cases),
        summary(result.cases),
    ]


def _sums_block(result: Result) -> list[str]:
    rows = []
    for case in result.cases:
        peer = next(name for name in case.rows if name != "native")
        size = "x".join(map(str, case.shape[2:]))
        taken = [_ms(case, "native"), _ms(case, peer), speed(ratio(case, peer))]
        memory = f"{case.rows['native'].memory['peak'] / 1e6:.2f}"
        rows.append([case.logits, size, *taken, peer, memory])
    head = ["loss, mask", "size", "ours, ms", "peer, ms", "times", "peer", "MB"]
    return [
        "Forward and backward, components and cells found inside of what is timed unless given. "
        "The peer of the sums is region_sums, of losses eager PyTorch with SciPy's components and "
        "cells, which have one thread. MB are ours, above inputs and gradient.",
        table(head, rows),
    ]


def _times(cases: Sequence[Case]) -> str:
    head = ["volume, connectivity", "size", "components", "ours, ms", *PEERS]
    head += [*(f"vs {peer}" for peer in PEERS), "MB"]
    rows = [
        [
            case.logits,
            "x".join(map(str, case.shape[2:])),
            f"{case.rows['native'].accuracy['components']:.0f}",
            *(_ms(case, name) for name in ("native", *PEERS)),
            *(speed(ratio(case, peer)) if peer in case.rows else "-" for peer in PEERS),
            f"{case.rows['native'].memory['peak'] / 1e6:.2f}",
        ]
        for case in cases
    ]
    return table(head, rows)


def _ms(case: Case, name: str) -> str:
    return number(case.rows[name].ms["both"]) if name in case.rows else "-"


def summary(cases: Sequence[Case]) -> str:
    """Return the geometric mean and the worst against each peer."""
    parts = []
    for peer in PEERS:
        found = [ratio(case, peer) or 0.0 for case in cases if peer in case.rows]
        if found:
            mean = math.exp(sum(math.log(max(times, 1e-9)) for times in found) / len(found))
            parts.append(f"against {peer} {mean:.1f}x (worst {min(found):.1f}x)")
    return f"{len(cases)} volumes, geometric means: {', '.join(parts)}."
