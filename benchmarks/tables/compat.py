"""The tables of the drop-ins' benchmark: what is won least comes first."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.measure.results import Case, Result
from benchmarks.tables.cells import lost, number, ratio, speed, table

BENCHMARK = "compat"
HEAD = ("class", "input", "ms: ours, theirs", "faster", "MB: ours, theirs", "memory", "slower in")
UNMEASURED = "Not measured yet: `make bench` does it."


def block(result: Result) -> list[str] | None:
    """Return the paragraphs of a result, None if it is of another benchmark."""
    if result.benchmark != BENCHMARK:
        return None
    return [
        "Milliseconds of both passes, medians of interleaved repeats, and MB above inputs and "
        "gradient, at the peak. Both sides have the same options and tensors. What is won least "
        "comes first; in the last column is where ours is slower.",
        "One volume:",
        *_tables([case for case in result.cases if case.shape[0] == 1]),
        "A small batch of images:",
        *_tables([case for case in result.cases if case.shape[0] > 1]),
    ]


def page(results: Sequence[Result]) -> str:
    """Return what the page of the drop-ins says of their speed, of the first machine's results."""
    found = next((result for result in results if result.benchmark == BENCHMARK), None)
    if found is None:
        return UNMEASURED
    p = found.provenance
    where = f"{p['cpu']}, {p['threads']} threads, torch {p['torch']}, commit {p['commit']}."
    return "\n\n".join([where, *(block(found) or [])])


def _tables(cases: Sequence[Case]) -> list[str]:
    if not cases:
        return []
    ordered = sorted(cases, key=_speed)
    return [table(HEAD, [_row(case) for case in ordered]), summary(cases)]


def _speed(case: Case) -> float:
    return ratio(case, "eager") or 0.0


def _row(case: Case) -> list[str]:
    own, other = case.rows[case.ours], case.rows["eager"]
    times = _speed(case)
    megabytes = [row.memory["peak"] / 1e6 for row in (own, other)]
    return [
        f"`{case.loss}`",
        "x".join(map(str, case.shape)),
        ", ".join(number(row.ms["both"]) for row in (own, other)),
        speed(times),
        ", ".join(f"{size:.1f}" for size in megabytes),
        f"{megabytes[0] / megabytes[1]:.1%}" if megabytes[1] else "-",
        "; ".join(words.rsplit(" ", 1)[0] for words in lost(case)),
    ]


def volumes(result: Result) -> str:
    """Say the same as ``summary`` of the volumes of a result."""
    return summary([case for case in result.cases if case.shape[0] == 1])


def summary(cases: Sequence[Case]) -> str:
    """Say how much faster than their peers the classes are, and how much memory they take."""
    speeds = [_speed(case) for case in cases]
    parts = [
        case.rows[case.ours].memory["peak"] / case.rows["eager"].memory["peak"]
        for case in cases
        if case.rows["eager"].memory["peak"]
    ]
    worst = min(cases, key=_speed)
    return (
        f"{len(cases)} classes: geometric mean {statistics.geometric_mean(speeds):.1f}x faster, "
        f"worst `{worst.loss}` {min(speeds):.2f}x; {sum(speed < 1 for speed in speeds)} slower "
        f"than the peer. Memory: median {statistics.median(parts):.1%} of the peer's."
    )
