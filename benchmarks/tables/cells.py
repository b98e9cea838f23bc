"""What all tables are made of: names of cases, ratios, cells."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks.cases.contenders import DEFINITION
from benchmarks.measure.results import Case, Row

# The contenders that have columns, by device; tables.remarks has a sentence for any other.
_OTHERS = {"reference": "our reference", "eager": "MONAI", "compiled": "MONAI compiled"}
LABELS = {
    "cpu": {"native": "ours", **_OTHERS},
    "cuda": {"triton": "ours, Triton", "native": "ours, CUDA C++", **_OTHERS},
}
DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}

LARGE = 60_000_000  # logits: what is smaller may stay in the cache


def ratio(case: Case, other: str, mode: str = "both") -> float | None:
    """Return how many times faster ours is, None if one of the two was not measured."""
    if case.ours not in case.rows or other not in case.rows:
        return None
    return case.rows[other].ms[mode] / case.rows[case.ours].ms[mode]


def lost(case: Case) -> list[str]:
    """Say against whom, and in which mode, ours is slower."""
    found = []
    for other, row in case.rows.items():
        for mode in reversed(row.ms):  # both, before its parts
            times = ratio(case, other, mode)
            if times is not None and times < 1:
                found.append(f"{mode} {times:.2f}x {label(case, other)}")
    return found


def describe(case: Case) -> str:
    """Return the case in words of a table."""
    batch, classes, *size = case.shape
    cube = len(size) == 3 and len(set(size)) == 1
    space = f"{size[0]}³" if cube else "x".join(map(str, size))
    words = [case.loss, f"C={classes}", f"{batch}x{space}" if batch > 1 else space]
    words += [DTYPES[case.dtype]] + ([] if case.logits == "random" else [case.logits])
    words += [word for word in ("channels_last", "uint8") if word in case.name.split("-")]
    return " ".join(words) + ("" if case.peer == "MONAI" else f" (peer: {case.peer})")


def label(case: Case, contender: str) -> str:
    """Return what the contender is called in this case."""
    return LABELS[case.device].get(contender, contender).replace("MONAI", case.peer)


def _labels(cases: Sequence[Case]) -> dict[str, str]:
    """Return the columns of cases on one device: the contenders of any, whose peers may differ."""
    labels = LABELS[cases[0].device] if cases else LABELS["cpu"]
    there = {name for case in cases for name in case.rows}
    return {name: words.replace("MONAI", "peer") for name, words in labels.items() if name in there}


def number(value: float) -> str:
    """Return three digits, and all before the point."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def milliseconds(row: Row | None) -> str:
    """Return the medians of all modes."""
    return "-" if row is None else " / ".join(number(median) for median in row.ms.values())


def wall(row: Row | None) -> str:
    """Return the milliseconds of an eager step on the wall, where they were measured."""
    return "-" if row is None or not row.wall_ms else number(row.wall_ms["both"])


def has_wall(cases: Iterable[Case]) -> bool:
    """Whether the host's time was measured beside that of the device."""
    return any(row.wall_ms for case in cases for row in case.rows.values())


def speed(times: float | None) -> str:
    """Return a ratio of times, in bold where ours is slower."""
    if times is None:
        return "-"
    return f"{times:.1f}x" if times >= 1 else f"**{times:.2f}x**"


def megabytes(row: Row | None, *kinds: str) -> str:
    """Return memory of these kinds."""
    return "-" if row is None else " / ".join(f"{row.memory[kind] / 1e6:.2f}" for kind in kinds)


def errors(row: Row | None, *kinds: str) -> str:
    """Return errors of these kinds."""
    return "-" if row is None else " / ".join(f"{row.accuracy[kind]:.0e}" for kind in kinds)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _bold(items: Sequence[str]) -> str:
    return f"**{'; '.join(items)}**" if items else ""


def times(cases: Sequence[Case]) -> str:
    """Return the times and ratios of the cases; where we lose is in the last column."""
    labels = _labels(cases)
    others = [name for name in ("eager", "compiled") if name in labels]
    eager = list(labels) if has_wall(cases) else []
    head = ["case", *labels.values(), *(f"{labels[name]}, wall" for name in eager)]
    head += [*(f"vs {labels[name]}" for name in others), "slower in"]
    rows = [
        [
            describe(case),
            *(milliseconds(case.rows.get(name)) for name in labels),
            *(wall(case.rows.get(name)) for name in eager),
            *(speed(ratio(case, other)) for other in others),
            _bold(lost(case)),
        ]
        for case in cases
    ]
    return table(head, rows)


def memory(cases: Sequence[Case]) -> str:
    """Return the memory that is kept for backward and at the peak."""
    kinds = ("saved", "peak")
    rows = [
        [describe(case), *(megabytes(case.rows.get(name), *kinds) for name in _labels(cases))]
        for case in cases
    ]
    return table(["case", *_labels(cases).values()], rows)


def accuracy(cases: Sequence[Case]) -> str:
    """Return the errors against float64."""
    kinds = ("value", "grad_l2", "grad_max")
    rows = [
        [describe(case), *(errors(case.rows.get(name), *kinds) for name in _labels(cases))]
        for case in cases
    ]
    return table(["case", *_labels(cases).values()], rows)


def bandwidth(
    cases: Sequence[Case], copy: float, columns: Mapping[str, str], words: Callable[[Case], str]
) -> str:
    """Return the bandwidth that forward and backward reach, as a part of a copy's.

    Args:
        cases: Those with enough logits that memory decides have a row.
        copy: Bytes per second of a copy, read and written.
        columns: The contenders, and what they are called.
        words: Describes a case.
    """
    rows = [
        [words(case), *(_parts(case, case.rows.get(name), copy) for name in columns)]
        for case in cases
        if math.prod(case.shape) >= LARGE
    ]
    return table(["case", *columns.values()], rows)


def _parts(case: Case, row: Row | None, copy: float) -> str:
    if row is None:
        return "-"
    seconds = {mode: row.ms[mode] / 1e3 for mode in ("forward", "backward")}
    return " / ".join(f"{case.floor_bytes[mode] / s / copy:.0%}" for mode, s in seconds.items())


def mean(cases: Sequence[Case]) -> str:
    """Say how much faster than their definitions ours are."""
    known = [times for case in cases if (times := ratio(case, "eager")) is not None]
    return (
        f"{len(known)} losses against {DEFINITION}: geometric mean "
        f"{statistics.geometric_mean(known):.1f}x, worst {min(known):.1f}x."
    )


def remarks(cases: Sequence[Case]) -> list[str]:
    """Return a sentence for each contender that has no column, and the mean over definitions."""
    alone = [case for case in cases if case.peer == DEFINITION]
    return ([mean(alone)] if alone else []) + [
        f"{describe(case)}, {name}: {milliseconds(row)} ms, "
        f"{megabytes(row, 'saved', 'peak')} MB; ours is {speed(ratio(case, name))} as fast."
        for case in cases
        for name, row in case.rows.items()
        if name not in LABELS[case.device]
    ]
