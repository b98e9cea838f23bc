"""The tables of distance_transform's benchmarks for report.py: ratios, targets, errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.results import Case, Result
from benchmarks.tables import number, ratio, table

# The speed-ups that every mask must reach, and aims at: against edt, noise apart, and scipy.
EDT, NOISE, SCIPY = (5.0, 10.0), (3.0, 10.0), (8.0, 15.0)
SCIPY_MEAN = (20.0, 50.0)  # geometric, over all cases


# On a GPU, milliseconds that blobs, ball and its surroundings must take at most, and aims at.
CUDA_MS: dict[tuple[int, ...], tuple[float, float]] = {
    (256, 256, 256): (0.20, 0.11),
    (512, 512, 512): (1.5, 0.9),
}


def block(result: Result) -> list[str] | None:
    """Return the paragraphs of a result, None if it is of another benchmark."""
    blocks = {"distance_transform": _cpu_block, "distance_transform_cuda": _cuda_block}
    return blocks[result.benchmark](result) if result.benchmark in blocks else None


def _cuda_block(result: Result) -> list[str]:
    copy = 1e9 * float(result.provenance["copy_gb_s"])
    rows = []
    for case in result.cases:
        floor = 1e3 * case.floor_bytes["both"] / copy
        names = ("native", "triton", "cupy")
        times = [_ms(case, name) if name in case.rows else "-" for name in names]
        size = "x".join(map(str, case.shape))
        rows.append([case.logits, size, *times, number(floor), _cuda_verdict(case)])
    head = ["mask, side", "size", "CUDA C++, ms", "Triton", "CuPy", "floor", "target"]
    return [
        "All masks in one call, cold cache; the floor is a copy of the bytes that the passes move.",
        table(head, rows),
    ]


def _cuda_verdict(case: Case) -> str:
    kind, side = case.logits.split(", ")
    target = CUDA_MS.get(tuple(case.shape[2:]))
    if target is None or side != "inside" or kind not in ("blobs", "ball", "around"):
        return ""
    (must, aim), ms = target, case.rows["native"].ms["both"]
    state = "**missed**" if ms > must else "aim met" if ms <= aim else "met"
    return f"{must:g} ms (aim {aim:g}): {state}"


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
    head = ["mask", "size", "ours, ms", "edt", "scipy", "vs edt", "vs scipy", "target"]
    head += ["error: ours, edt", "MB"]
    rows = [
        [
            case.logits,
            "x".join(map(str, case.shape[2:])),
            *(_ms(case, name) for name in ("native", "edt", "scipy")),
            *(_speed(case, name) for name in ("edt", "scipy")),
            _verdict(case),
            ", ".join(f"{case.rows[name].accuracy['value']:.0e}" for name in ("native", "edt")),
            f"{case.rows['native'].memory['peak'] / 1e6:.2f}",
        ]
        for case in cases
    ]
    return table(head, rows)


def _ms(case: Case, name: str) -> str:
    return number(case.rows[name].ms["both"])


def _speed(case: Case, other: str) -> str:
    times = ratio(case, other)
    if times is None:
        return "-"
    return f"{times:.1f}x" if times >= 1 else f"**{times:.2f}x**"


def _state(times: float, target: tuple[float, float]) -> str:
    must, aim = target
    return "**missed**" if times < must else "aim met" if times >= aim else "met"


def _verdict(case: Case) -> str:
    edt = NOISE if case.logits.startswith("noise") else EDT
    cells = [
        f"{other} {target[0]:g}x (aim {target[1]:g}x): {_state(ratio(case, other) or 0, target)}"
        for other, target in (("edt", edt), ("scipy", SCIPY))
    ]
    return "; ".join(cells)


def summary(cases: Sequence[Case]) -> str:
    """Return the geometric mean and the worst over all cases."""
    parts = []
    for other in ("edt", "scipy"):
        found = [ratio(case, other) or 0.0 for case in cases]
        mean = math.exp(sum(math.log(max(times, 1e-9)) for times in found) / len(found))
        part = f"Against {other}: geometric mean {mean:.1f}x, worst {min(found):.1f}x"
        if other == "scipy":
            must, aim = SCIPY_MEAN
            part += f" (mean's target {must:g}x, aim {aim:g}x: {_state(mean, SCIPY_MEAN)})"
        parts.append(part + ".")
    return " ".join(parts)
