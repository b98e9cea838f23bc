"""The tables of whole steps on patches, in two regimes of memory."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.measure.results import Case, Result
from benchmarks.tables.cells import number, ratio, speed, table

BENCHMARKS = {
    "patches": "Memory as the C library handles it: what a step frees goes back to the system, "
    "and each page of a new buffer costs a page fault. Those are a large part of MONAI's time.",
    "patches_recycled": "Recycled memory, as of jemalloc, of tcmalloc, or of glibc with the "
    "environment of `benchmarks/measure/memory.py`: a step meets no new pages, and the ratio is "
    "that of the computations alone.",
}
HEAD = ("loss", "input", "labels", "ms: ours, MONAI", "faster", "page faults: ours, MONAI")


def block(result: Result) -> list[str] | None:
    """Return the paragraphs of a result, None if it is of another benchmark."""
    if result.benchmark not in BENCHMARKS:
        return None
    return [
        "Forward and backward, medians of interleaved repeats: before each step of ours MONAI's "
        f"has run. {BENCHMARKS[result.benchmark]}",
        table(HEAD, [_row(case) for case in result.cases]),
        _longer(result.cases),
    ]


def _row(case: Case) -> list[str]:
    own, other = case.rows[case.ours], case.rows["eager"]
    return [
        case.loss,
        f"C = {case.shape[1]}, {case.shape[2]}³",
        labels(case),
        ", ".join(number(row.ms["both"]) for row in (own, other)),
        speed(ratio(case, "eager")),
        ", ".join(str(row.memory["faults"]) for row in (own, other)),
    ]


def labels(case: Case) -> str:
    """Return the dtype of the case's labels."""
    return "uint8" if case.name.endswith("-uint8") else "int64"


def _longer(cases: Sequence[Case]) -> str:
    """Say how much longer our steps take with labels of eight bytes."""
    wide = {case.name: case for case in cases if labels(case) == "int64"}
    found = [
        wide[name].rows["native"].ms["both"] / case.rows["native"].ms["both"] - 1
        for case in cases
        if (name := case.name.removesuffix("-uint8")) in wide and name != case.name
    ]
    parts = ", ".join(f"{part:+.0%}" for part in found)
    return f"With int64 labels instead of uint8, ours takes, by size: {parts}." if found else ""


def summary(results: Sequence[Result]) -> list[str]:
    """Say how much faster DiceCE is in both regimes of memory, if both were measured."""
    found = {result.benchmark: _by_size(result.cases) for result in results}
    if not BENCHMARKS.keys() <= found.keys():
        return []
    default, recycled = (found[name] for name in BENCHMARKS)
    where = next(result for result in results if result.benchmark in BENCHMARKS).provenance["cpu"]
    sizes = ", ".join(f"{side}³" for side in recycled)
    return [
        f"`DiceCELoss` on patches of {sizes} (C = 4, labels of a byte, {where}): "
        f"{_listed(default)} faster than MONAI, and {_listed(recycled)} where memory is recycled "
        "and MONAI meets no page faults."
    ]


def _by_size(cases: Sequence[Case]) -> dict[int, float]:
    """Return the ratios of DiceCE with four classes and labels of a byte."""
    chosen = [case for case in cases if case.loss == "DiceCE" and labels(case) == "uint8"]
    return {c.shape[2]: ratio(c, "eager") or 0.0 for c in chosen if c.shape[1] == 4}


def _listed(ratios: dict[int, float]) -> str:
    return ", ".join(f"{times:.1f}x" for times in ratios.values())
