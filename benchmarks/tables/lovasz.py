"""The tables and the plot of lovasz's benchmarks: ratios, errors, memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure.results import Case, Result
from benchmarks.tables import cells

COLUMNS = {
    "histogram": "histogram",
    "sort": "sort",
    "triton": "histogram, Triton",
    "eager": "published",
    "compiled": "published, compiled",
    "kornia": "kornia",
    "smp": "SMP",
}
OURS = ("histogram", "triton", "sort")
COLORS = {"histogram": "#0b6e4f", "sort": "#2f9e7a", "eager": "#b0532b"}
SCALING = "lovasz_voxels"


def block(result: Result) -> list[str] | None:
    """Return the paragraphs of a result, None if it is of another benchmark."""
    if not result.benchmark.startswith("lovasz"):
        return None
    cases = result.cases
    if result.benchmark == SCALING:
        return ["Milliseconds of both passes, and the gradient's error:", _scaling(cases)]
    blocks = [
        "Milliseconds, forward / backward / both: medians of interleaved repeats. The published "
        "algorithm is Berman et al.'s, class by class in PyTorch; ratios are of both passes, "
        "of its time over ours.",
        _times(cases),
        "Errors against the exact sort in float64: of the loss / of the gradient, relative L2. "
        "Half precision rounds the gradient.",
        _accuracy(cases),
        "MB above inputs and gradient, kept for backward / peak:",
        _memory(cases),
    ]
    if any(case.device == "cuda" for case in cases):
        copy = 1e9 * float(result.provenance["copy_gb_s"])
        blocks += [
            "Bandwidth, forward / backward, as a part of that of a copy, on the bytes that no "
            "kernel can avoid:",
            cells.bandwidth(cases, copy, _columns(cases), _describe),
        ]
    return blocks


def _names(cases: Sequence[Case]) -> list[str]:
    """Return the contenders that any case has, in the order of the columns."""
    found = {name for case in cases for name in case.rows}
    return [name for name in COLUMNS if name in found]


def _columns(cases: Sequence[Case]) -> dict[str, str]:
    """Return ours among them, and what they are called."""
    return {name: COLUMNS[name] for name in OURS if name in _names(cases)}


def _describe(case: Case) -> str:
    _, classes, *size = case.shape
    cube = len(size) == 3 and len(set(size)) == 1
    space = f"{size[0]}³" if cube else "x".join(map(str, size))
    half = [] if case.dtype == "float32" else [case.dtype]
    return " ".join([case.loss, f"C={classes}", space, *half, case.logits])


def ratio(case: Case, ours: str) -> float | None:
    """Return how many times faster one of ours is than the published algorithm."""
    if ours not in case.rows or "eager" not in case.rows:
        return None
    return case.rows["eager"].ms["both"] / case.rows[ours].ms["both"]


def _times(cases: Sequence[Case]) -> str:
    names = _names(cases)
    ours = _columns(cases)
    head = ["case", *(COLUMNS[name] for name in names)]
    head += [f"{words} vs published" for words in ours.values()]
    rows = [
        [
            _describe(case),
            *(cells.milliseconds(case.rows.get(name)) for name in names),
            *(cells.speed(ratio(case, name)) for name in ours),
        ]
        for case in cases
    ]
    return cells.table(head, rows)


def _accuracy(cases: Sequence[Case]) -> str:
    names = _names(cases)
    kinds = ("value", "grad_l2")
    rows = [
        [_describe(case), *(cells.errors(case.rows.get(name), *kinds) for name in names)]
        for case in cases
    ]
    return cells.table(["case", *(COLUMNS[name] for name in names)], rows)


def _memory(cases: Sequence[Case]) -> str:
    names = _names(cases)
    kinds = ("saved", "peak")
    rows = [
        [_describe(case), *(cells.megabytes(case.rows.get(name), *kinds) for name in names)]
        for case in cases
    ]
    return cells.table(["case", *(COLUMNS[name] for name in names)], rows)


def _scaling(cases: Sequence[Case]) -> str:
    names = _names(cases)
    head = ["voxels", *(f"{COLUMNS[name]}, ms" for name in names)]
    head += [f"error of {COLUMNS[name]}" for name in names]
    rows = [
        [
            f"{math.prod(case.shape):,}",
            *(cells.number(case.rows[name].ms["both"]) for name in names),
            *(f"{case.rows[name].accuracy['grad_l2']:.0e}" for name in names),
        ]
        for case in cases
    ]
    return cells.table(head, rows)


def plot(result: Result, path: Path) -> None:
    """Draw the gradient's error and the time against the number of voxels.

    Args:
        result: Of bench_lovasz_voxels.py.
        path: PNG to write.
    """
    import matplotlib  # nothing else needs it

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (errors, times) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    cases = sorted(result.cases, key=lambda case: math.prod(case.shape))
    voxels = [math.prod(case.shape) for case in cases]
    for name, color in COLORS.items():
        label = COLUMNS[name] if name == "eager" else f"ours, {COLUMNS[name]}"
        rows = [case.rows[name] for case in cases]
        style = {"color": color, "marker": "o", "markersize": 3.5, "label": label}
        errors.plot(voxels, [row.accuracy["grad_l2"] for row in rows], **style)
        times.plot(voxels, [row.ms["both"] for row in rows], **style)
    errors.set_ylabel("gradient error, relative L2")
    times.set_ylabel("forward + backward, ms")
    for axis in (errors, times):
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.xaxis.set_minor_formatter("")
        axis.set_xlabel("voxels")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    errors.legend(frameon=False, fontsize=8)
    p = result.provenance
    where = p.get("gpu") or f"{p['cpu']}, {p['threads']} threads"
    figure.suptitle(
        f"Lovász loss of one class, 1 % foreground, float32: {where}, torch {p['torch']}, "
        f"commit {p['commit']}",
        fontsize=9,
    )
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
