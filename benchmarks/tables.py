"""The tables of report.py: names of cases, ratios, targets, cells."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from benchmarks.results import Case, Row

# The contenders that have columns, by device; tables.remarks has a sentence for any other.
_OTHERS = {"reference": "our reference", "eager": "MONAI", "compiled": "MONAI compiled"}
LABELS = {
    "cpu": {"native": "ours", **_OTHERS},
    "cuda": {"triton": "ours, Triton", "native": "ours, CUDA C++", **_OTHERS},
}
DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}
BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}

# The speed-ups that a case must reach, and aims at, by the beginning of its name and by contender.
TARGETS: dict[str, dict[str, tuple[float, float]]] = {
    "DiceCE-1x4x128x128x128-float32-": {"eager": (8, 15), "compiled": (5, 10)},
    "DiceFocal-1x4x128x128x128-float32-": {"eager": (12, 25)},
    "Dice-2x4x64x64-": {"eager": (1, 3)},
    "DiceCE-2x4x64x64-": {"eager": (1, 3)},
    "HausdorffDT-1x1x192x192x192-": {"eager": (40, 70)},
}
CUDA_TARGETS: dict[str, dict[str, tuple[float, float]]] = {
    "DiceCE-1x4x256x256x256-float32-": {"eager": (6, 9), "compiled": (1.8, 4)},
    "DiceCE-1x4x256x256x256-bfloat16-": {"eager": (12, 20), "compiled": (2.5, 5)},
    "DeepDiceCE-": {"eager": (10, 30)},
}
DEFINITION = "eager PyTorch"  # the peer of losses that no peer has: their definition
DEFINITION_MEAN = 5.0  # the geometric mean of the speed-ups that these must reach
OVER_FIELDS = ("HausdorffDT", "Boundary")  # they keep a field, of which the target says nothing
NOT_SLOWER = {"eager": (1.0, 1.0)}
# The parts of a copy's bandwidth that forward and backward must reach, and aim at, on a GPU.
BANDWIDTH_TARGETS = {"few": ((0.85, 0.92), (0.80, 0.90)), "many": ((0.70, 0.85), (0.70, 0.85))}
MANY_CLASSES = 32
LARGE = 60_000_000  # logits: what is smaller may stay in the cache


def own_targets(case: Case) -> dict[str, tuple[float, float]]:
    """Return the targets of this case; none if it has only to be no slower."""
    targets = CUDA_TARGETS if case.device == "cuda" else TARGETS
    return next((found for name, found in targets.items() if case.name.startswith(name)), {})


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


def verdict(case: Case) -> str:
    """Say what the case must reach, and whether it does."""
    cells = []
    for other, (must, aim) in (own_targets(case) or NOT_SLOWER).items():
        times = ratio(case, other)
        if times is None:
            continue
        wanted = f"{must:g}x" + (f" (aim {aim:g}x)" if aim > must else "")
        state = "**missed**" if times < must else "aim met" if times >= aim > must else "met"
        cells.append(f"{label(case, other)} {wanted}: {state}")
    return "; ".join(cells)


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
    """Return the columns of cases on one device."""
    return LABELS[cases[0].device] if cases else LABELS["cpu"]


def number(value: float) -> str:
    """Return three digits, and all before the point."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _milliseconds(row: Row | None) -> str:
    return "-" if row is None else " / ".join(number(median) for median in row.ms.values())


def _speed(case: Case, other: str) -> str:
    times = ratio(case, other)
    if times is None:
        return "-"
    return f"{times:.1f}x" if times >= 1 else f"**{times:.2f}x**"


def _megabytes(row: Row | None, *kinds: str) -> str:
    return "-" if row is None else " / ".join(f"{row.memory[kind] / 1e6:.2f}" for kind in kinds)


def _errors(row: Row | None, *kinds: str) -> str:
    return "-" if row is None else " / ".join(f"{row.accuracy[kind]:.0e}" for kind in kinds)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _bold(items: Sequence[str]) -> str:
    return f"**{'; '.join(items)}**" if items else ""


def times(cases: Sequence[Case]) -> str:
    """Return the times and ratios of the cases; where we lose is in the last column."""
    head = ["case", *_labels(cases).values(), "vs eager", "vs compiled"]
    head += ["target", "slower in"]
    rows = [
        [
            describe(case),
            *(_milliseconds(case.rows.get(name)) for name in _labels(cases)),
            *(_speed(case, other) for other in ("eager", "compiled")),
            verdict(case),
            _bold(lost(case)),
        ]
        for case in cases
    ]
    return table(head, rows)


def _memory_verdict(case: Case) -> str:
    if case.ours not in case.rows or case.loss in OVER_FIELDS:
        return "-"
    limit = 1e6 + 0.01 * BYTES[case.dtype] * math.prod(case.shape)
    state = "met" if case.rows[case.ours].memory["peak"] <= limit else "**missed**"
    return f"{limit / 1e6:.2f}: {state}"


def memory(cases: Sequence[Case]) -> str:
    """Return the memory that is kept for backward and at the peak, and the peak's target."""
    rows = [
        [
            describe(case),
            *(_megabytes(case.rows.get(name), "saved", "peak") for name in _labels(cases)),
            _memory_verdict(case),
        ]
        for case in cases
    ]
    return table(["case", *_labels(cases).values(), "target (peak)"], rows)


def accuracy(cases: Sequence[Case]) -> str:
    """Return the errors against float64."""
    kinds = ("value", "grad_l2", "grad_max")
    rows = [
        [describe(case), *(_errors(case.rows.get(name), *kinds) for name in _labels(cases))]
        for case in cases
    ]
    return table(["case", *_labels(cases).values()], rows)


def bandwidth(cases: Sequence[Case], copy: float) -> str:
    """Return the bandwidth that forward and backward reach, as a part of a copy's.

    Args:
        cases: Those with enough logits that memory decides.
        copy: Bytes per second of a copy, read and written.
    """
    rows = []
    for case in cases:
        if math.prod(case.shape) < LARGE:
            continue
        cells = []
        for name in ("triton", "native"):
            row = case.rows.get(name)
            parts = [] if row is None else [_part(case, row, mode, copy) for mode in _MODES]
            cells.append(" / ".join(f"{part:.0%}" for part in parts) or "-")
        rows.append([describe(case), *cells, _bandwidth_verdict(case, copy)])
    return table(["case", "Triton", "CUDA C++", "target (of what auto takes)"], rows)


_MODES = ("forward", "backward")


def _part(case: Case, row: Row, mode: str, copy: float) -> float:
    return case.floor_bytes[mode] / (row.ms[mode] / 1e3) / copy


def _bandwidth_verdict(case: Case, copy: float) -> str:
    row = case.rows.get(case.ours)
    if row is None:
        return "-"
    targets = BANDWIDTH_TARGETS["many" if case.shape[1] > MANY_CLASSES else "few"]
    cells = []
    for mode, (must, aim) in zip(_MODES, targets, strict=True):
        part = _part(case, row, mode, copy)
        state = "**missed**" if part < must else "aim met" if part >= aim else "met"
        cells.append(f"{mode} {must:.0%} (aim {aim:.0%}): {state}")
    return "; ".join(cells)


def mean(cases: Sequence[Case]) -> str:
    """Say how much faster than their definitions ours are, of losses that no peer has."""
    speeds = [ratio(case, "eager") for case in cases]
    known = [speed for speed in speeds if speed is not None]
    found = statistics.geometric_mean(known)
    state = "met" if found >= DEFINITION_MEAN else "**missed**"
    return (
        f"Against {DEFINITION}: geometric mean {found:.1f}x, worst {min(known):.1f}x "
        f"(mean's target {DEFINITION_MEAN:g}x: {state})."
    )


def remarks(cases: Sequence[Case]) -> list[str]:
    """Return a sentence for each contender that has no column, and the mean over definitions."""
    alone = [case for case in cases if case.peer == DEFINITION]
    return ([mean(alone)] if alone else []) + [
        f"{describe(case)}, {name}: {_milliseconds(row)} ms, "
        f"{_megabytes(row, 'saved', 'peak')} MB; ours is {_speed(case, name)} as fast."
        for case in cases
        for name, row in case.rows.items()
        if name not in LABELS[case.device]
    ]
