"""The README's table and picture: some cases of each benchmark, the means, and where ours loses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.cases.contenders import DEFINITION
from benchmarks.measure.results import Case, Result
from benchmarks.tables import cells, compat, distances, patches


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


_RANDOM = "-float32-random"
_LOVASZ = "LovaszSoftmax-1x4x128x128x128-float32-random-30%"
HEADLINES = (
    Headline("region_sums", f"DiceCE-1x4x128x128x128{_RANDOM}"),
    Headline("region_sums", f"DiceCE-1x4x128x128x128{_RANDOM}", "compiled"),
    Headline("region_sums", f"DiceCE-2x4x64x64{_RANDOM}"),
    Headline("region_sums", f"DiceFocal-1x4x128x128x128{_RANDOM}"),
    Headline("hausdorff", f"HausdorffDT-1x1x192x192x192{_RANDOM}"),
    Headline("hausdorff", f"Boundary-1x4x128x128x128{_RANDOM}"),
    Headline("lovasz", _LOVASZ, ours="histogram"),
    Headline("losses", f"TopK-1x4x128x128x128{_RANDOM}"),
    Headline("losses", f"SoftDiceClDice-1x4x128x128x128{_RANDOM}"),
    Headline("distance_transform", "192x192x192-blobs", "edt"),
)
OURS = {"native", "triton", "histogram", "sort", "reference", "region_sums"}
MODES = {"both": "both passes together", "forward": "forward", "backward": "backward"}
HEAD = ("loss", "input", "instead of", "ms: ours, theirs", "faster", "MB: ours, theirs")
# Where a benchmark's name of a loss is not that of its class.
NAMES = {
    "CE": "CrossEntropy",
    "BalancedCE": "BalancedCrossEntropy",
    "WassersteinDice": "GeneralizedWassersteinDice",
}


def block(results: Sequence[Result]) -> str:
    """Return the table and the sentences below it, of one machine's results.

    Those of plain PyTorch, which installs without kernels fall back to, are for the page of all
    tables alone; those of the drop-ins have one of their own, and a sentence here.

    Raises:
        ValueError: If a headline's case was not measured.
    """
    dropins = [result for result in results if result.benchmark == compat.BENCHMARK]
    results = own(results)
    return "\n\n".join(
        [
            "Forward and backward on the CPU, two threads, C classes; memory beside inputs and "
            f"gradient. Berman et al. is their published code, {DEFINITION} the loss's "
            "definition in tensor operations.",
            cells.table(HEAD, [_line(results, headline) for headline in HEADLINES]),
            "\n".join(
                [
                    *_means(results),
                    *patches.summary(results),
                    *_dropins(dropins),
                    _losses(results),
                ]
            ),
        ]
    )


def own(results: Sequence[Result]) -> list[Result]:
    """Return the results of our losses by their own names and with their kernels."""
    return [r for r in results if r.benchmark not in ("reference", compat.BENCHMARK)]


def _dropins(results: Sequence[Result]) -> list[str]:
    return [
        f"Drop-ins, one volume, {result.provenance['cpu']}: {compat.volumes(result)}"
        for result in results[:1]
    ]


def name(case: Case) -> str:
    """Return what the package calls what was measured."""
    loss = case.loss.removesuffix("Loss")
    return loss if loss.islower() else f"{NAMES.get(loss, loss)}Loss"


def _line(results: Sequence[Result], headline: Headline) -> list[str]:
    case = _find(results, headline)
    own, other = case.rows[headline.ours], case.rows[headline.peer]
    ms = [row.ms["both"] for row in (own, other)]
    memory = [f"{row.memory['peak'] / 1e6:.1f}" if row.memory else "-" for row in (own, other)]
    return [
        f"`{name(case)}`",
        _input(case),
        _peer(case, headline.peer),
        ", ".join(map(cells.number, ms)),
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


def _input(case: Case) -> str:
    batch, classes, *size = case.shape
    power = {2: "²", 3: "³"}[len(size)]
    space = f"{size[0]}{power}" if len(set(size)) == 1 else "x".join(map(str, size))
    many = [f"batch {batch}"] if batch > 1 else []
    many += [] if case.loss == "distance_transform" else [f"C = {classes}"]
    return ", ".join([*many, space])


def _peer(case: Case, contender: str) -> str:
    if contender in ("eager", "compiled"):
        return case.peer + (", compiled" if contender == "compiled" else "")
    return contender


def _means(results: Sequence[Result]) -> list[str]:
    found = []
    for result in results:
        if result.benchmark == "distance_transform":
            found.append(f"`distance_transform`, {distances.summary(result.cases)}")
        elif result.benchmark == "losses":
            alone = [case for case in result.cases if case.peer == DEFINITION]
            found.append(cells.mean(alone))
    return found


def _losses(results: Sequence[Result]) -> str:
    """Say of which losses ours is slower than a peer, in one pass or in both, and how much."""
    worst: dict[tuple[str, str], tuple[float, str]] = {}
    cases = [c for result in results for c in result.cases if c.rows.keys() - OURS]
    for case in cases:
        for peer in case.rows.keys() - OURS:
            for mode in case.rows[peer].ms:
                times = cells.ratio(case, peer, mode) or 1.0
                found = (times, f"{case.loss} {times:.2f}x {cells.label(case, peer)}")
                if times < 1:
                    worst[mode, case.loss] = min(found, worst.get((mode, case.loss), found))
    said = {mode: [words for (m, _), (_, words) in worst.items() if m == mode] for mode in MODES}
    listed = [
        f"in {MODES[mode]} {', '.join(sorted(of))}" if of else f"never in {MODES[mode]}"
        for mode, of in said.items()
    ]
    return f"Slower than a peer, at worst of {len(cases)} cases: {'; '.join(listed).rstrip('.')}."
