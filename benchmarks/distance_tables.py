"""The table of distance_transform's benchmark for report.py: ratios, targets, errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.results import Case
from benchmarks.tables import number, ratio, table

NAME = "distance_transform"
# The speed-ups that every mask must reach, and aims at: against edt, noise apart, and scipy.
EDT, NOISE, SCIPY = (5.0, 10.0), (3.0, 10.0), (8.0, 15.0)
SCIPY_MEAN = (20.0, 50.0)  # geometric, over all cases


def block(cases: Sequence[Case]) -> list[str]:
    """Return the paragraphs of the results."""
    return [
        "One mask a call; medians of interleaved repeats. edt and ours have the same threads, "
        "scipy one. Errors are the largest relative to scipy's float64; MB are ours, above the "
        "output.",
        _times(cases),
        _summary(cases),
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


def _summary(cases: Sequence[Case]) -> str:
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
