"""The README's table: a few cases of each benchmark, then the means and where ours loses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks import distance_tables, tables
from benchmarks.results import Case, Result


class Headline(NamedTuple):
    """One line of the table.

    Attributes:
        benchmark: Whose case it is.
        case: Its name.
        peer: The contender that ours is compared with.
        ours: The contender of ours.
    """

    benchmark: str
    case: str
    peer: str = "eager"
    ours: str = "native"


_LOVASZ = "LovaszSoftmax-1x4x128x128x128-float32-random-30%"
HEADLINES = (
    Headline("region_sums", "DiceCE-1x4x128x128x128-float32-random"),
    Headline("region_sums", "DiceCE-1x4x128x128x128-float32-random", "compiled"),
    Headline("region_sums", "DiceCE-1x14x128x128x128-float32-random"),
    Headline("region_sums", "DiceFocal-1x4x128x128x128-float32-random"),
    Headline("region_sums", "DiceCE-2x4x64x64-float32-random"),
    Headline("hausdorff", "HausdorffDT-1x1x192x192x192-float32-random"),
    Headline("hausdorff", "Boundary-1x4x128x128x128-float32-random"),
    Headline("lovasz", _LOVASZ, ours="histogram"),
    Headline("lovasz", _LOVASZ, ours="sort"),
    Headline("losses", "GeneralizedDice-1x4x128x128x128-float32-random"),
    Headline("losses", "TopK-1x4x128x128x128-float32-random"),
    Headline("losses", "SoftDiceClDice-1x4x128x128x128-float32-random"),
    Headline("losses", "StructuralSimilarity-1x4x128x128x128-float32-random"),
    Headline("distance_transform", "192x192x192-blobs", "edt"),
    Headline("distance_transform", "192x192x192-blobs", "scipy"),
)
OURS = {"native", "triton", "histogram", "sort", "reference"}
MODES = ("both", "forward", "backward")
HEAD = ("", "ours, ms", "the other, ms", "faster", "MB: ours, the other's")


def block(results: Sequence[Result]) -> str:
    """Return the table and the sentences below it, of one machine's results.

    Raises:
        ValueError: If a headline's case was not measured.
    """
    return "\n\n".join(
        [
            "Forward and backward on the CPU, two threads; memory above inputs and gradient.",
            tables.table(HEAD, [_line(results, headline) for headline in HEADLINES]),
            *_means(results),
            _losses(results),
        ]
    )


def _line(results: Sequence[Result], headline: Headline) -> list[str]:
    case = _find(results, headline)
    own, other = case.rows[headline.ours], case.rows[headline.peer]
    ms = [row.ms["both"] for row in (own, other)]
    memory = [f"{row.memory['peak'] / 1e6:.1f}" if row.memory else "-" for row in (own, other)]
    return [
        _describe(case, headline),
        *(tables.number(median) for median in ms),
        f"{ms[1] / ms[0]:.1f}x",
        ", ".join(memory),
    ]


def _find(results: Sequence[Result], headline: Headline) -> Case:
    for result in results:
        for case in result.cases:
            there = {headline.peer, headline.ours} <= case.rows.keys()
            if (result.benchmark, case.name) == headline[:2] and there:
                return case
    raise ValueError(f"there is no result of {headline}")


def _describe(case: Case, headline: Headline) -> str:
    if headline.benchmark == "distance_transform":
        size = f"{case.shape[2]}³"
        return f"`distance_transform`, {case.logits} {size}, against {headline.peer}"
    words = tables.describe(case).partition(" (peer:")[0].replace(" fp32", "")
    method = f", {headline.ours}" if headline.ours != "native" else ""
    peer = case.peer + (" compiled" if headline.peer == "compiled" else "")
    return f"{words}{method}, against {peer}"


def _means(results: Sequence[Result]) -> list[str]:
    found = []
    for result in results:
        if result.benchmark == "distance_transform":
            count = f"`distance_transform`, {len(result.cases)} masks. "
            found.append(count + distance_tables.summary(result.cases))
        elif result.benchmark == "losses":
            alone = [case for case in result.cases if case.peer == tables.DEFINITION]
            found += [f"Losses of the survey ({len(alone)}). {tables.mean(alone)}"]
    return found


def _losses(results: Sequence[Result]) -> str:
    """Say of which losses ours is slower than a peer, in one pass or in both, and how much."""
    worst: dict[tuple[str, str], tuple[float, str]] = {}
    cases = [case for result in results for case in result.cases]
    for case in cases:
        for peer in case.rows.keys() - OURS:
            for mode in case.rows[peer].ms:
                times = tables.ratio(case, peer, mode) or 1.0
                found = (times, f"{case.loss} {times:.2f}x {tables.label(case, peer)}")
                if times < 1:
                    worst[mode, case.loss] = min(found, worst.get((mode, case.loss), found))
    said = {mode: [words for (m, _), (_, words) in worst.items() if m == mode] for mode in MODES}
    listed = [f"in {mode} ({', '.join(sorted(of)) or 'none'})" for mode, of in said.items()]
    return f"Slower than a peer, at worst of {len(cases)} cases: {', '.join(listed)}."
