"""The tables of the benchmarks of distance_transform and nearest_component: ratios and errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.measure.results import Case, Result
from benchmarks.tables.cells import has_wall, number, ratio, speed, table, wall


def block(result: Result) -> list[str] | None:
    """Return the paragraphs of a result, None if it is of another benchmark."""
    blocks = {
        "distance_transform": _cpu_block,
        "distance_transform_cuda": _cuda_block,
        "nearest_component": _nearest_block,
    }
    return blocks[result.benchmark](result) if result.benchmark in blocks else None


def _cuda_block(result: Result) -> list[str]:
    copy = 1e9 * float(result.provenance["copy_gb_s"])
    rows = []
    both = has_wall(result.cases)
    for case in result.cases:
        floor = 1e3 * case.floor_bytes["both"] / copy
        names = ("native", "triton", "cupy")
        times = [_ms(case, name) if name in case.rows else "-" for name in names]
        size = "x".join(map(str, case.shape))
        walls = [wall(case.rows.get(name)) for name in names] if both else []
        rows.append([case.logits, size, *times, *walls, number(floor)])
    of_wall = ["CUDA C++, wall", "Triton, wall", "CuPy, wall"] if both else []
    head = ["mask, side", "size", "CUDA C++, ms", "Triton", "CuPy", *of_wall, "floor"]
    return [
        "All masks in one call, cold cache; the floor is a copy of the bytes that the passes move.",
        table(head, rows),
    ]


def _nearest_block(result: Result) -> list[str]:
    names = ("native", "with distance", "distance_transform", "scipy")
    rows = [
        [
            case.logits,
            "x".join(map(str, case.shape[2:])),
            *(_ms(case, name) for name in names),
            f"{1 / (ratio(case, 'distance_transform') or math.nan):.2f}x",
            speed(ratio(case, "scipy")),
            f"{100 * case.rows['native'].accuracy['ties']:.2f} %",
            f"{case.rows['native'].memory['peak'] / 1e6:.2f}",
        ]
        for case in result.cases
    ]
    head = ["labels", "size", "ours, ms", "with distances", "distances alone", "scipy"]
    head += ["of the distances' time", "vs scipy", "ties", "MB"]
    return [
        "One label map a call; medians of interleaved repeats. The distances alone are ours, of a "
        "mask; scipy's indices are gathered by one thread. At ties scipy has another label; MB are "
        "ours, above the output.",
        table(head, rows),
    ]


def _cpu_block(result: Result) -> list[str]:
    cases = result.cases
    return [
        "One mask a call; medians of interleaved repeats. edt and ours have the same threads, "
        "scipy one. Errors are the largest relative to scipy's float64; MB are ours, above the "
        "output.",
        _times(cases),
        summary(cases),
    ]


def _times(cases: Sequence[Case]) -> str:
    head = ["mask", "size", "ours, ms", "edt", "scipy", "vs edt", "vs scipy"]
    head += ["error: ours, edt", "MB"]
    rows = [
        [
            case.logits,
            "x".join(map(str, case.shape[2:])),
            *(_ms(case, name) for name in ("native", "edt", "scipy")),
            *(speed(ratio(case, name)) for name in ("edt", "scipy")),
            ", ".join(f"{case.rows[name].accuracy['value']:.0e}" for name in ("native", "edt")),
            f"{case.rows['native'].memory['peak'] / 1e6:.2f}",
        ]
        for case in cases
    ]
    return table(head, rows)


def _ms(case: Case, name: str) -> str:
    return number(case.rows[name].ms["both"])


def summary(cases: Sequence[Case]) -> str:
    """Return the geometric mean and the worst over all cases."""
    parts = []
    for other in ("edt", "scipy"):
        found = [ratio(case, other) or 0.0 for case in cases]
        mean = math.exp(sum(math.log(max(times, 1e-9)) for times in found) / len(found))
        parts.append(f"against {other} {mean:.1f}x (worst {min(found):.1f}x)")
    return f"{len(cases)} masks, geometric means: {', '.join(parts)}."
