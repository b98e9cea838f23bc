"""The README's picture: how many times faster each loss is than what it replaces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure.results import Case, Result
from benchmarks.tables import headlines

SIZE = [128, 128, 128]
COLORS = {
    "MONAI": "#0b6e4f",
    "torch": "#5a9bd4",
    "eager PyTorch": "#9fc8b8",
    "Berman et al.": "#b0532b",
}


class Bar(NamedTuple):
    """One loss of the picture.

    Attributes:
        name: Of the loss.
        peer: Whose loss it is compared with.
        times: How many times faster ours is.
        compiled: The same against the peer under torch.compile, if that was measured.
    """

    name: str
    peer: str
    times: float
    compiled: float | None


def bars(results: Sequence[Result]) -> list[Bar]:
    """Return a bar per loss, of one volume of 128^3 voxels, the fastest first."""
    found: dict[str, Bar] = {}
    for case in sorted(_cases(results), key=lambda case: -case.shape[1]):
        own = case.rows[case.ours].ms["both"]
        compiled = case.rows.get("compiled")
        bar = Bar(
            headlines.name(case),
            case.peer,
            case.rows["eager"].ms["both"] / own,
            None if compiled is None else compiled.ms["both"] / own,
        )
        found.setdefault(bar.name, bar)
    return sorted(found.values(), key=lambda bar: -bar.times)


def _cases(results: Sequence[Result]) -> Iterator[Case]:
    """Yield the float32 cases of that size, of at most four classes, in the order of results."""
    for result in headlines.own(results):
        for case in result.cases:
            plain = (case.device, case.dtype) == ("cpu", "float32")
            plain = plain and case.logits.startswith("random") and "eager" in case.rows
            if plain and case.shape[2:] == SIZE and case.shape[1] <= 4:
                yield case


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw the bars.

    Args:
        results: Of one machine.
        path: PNG to write.
    """
    import matplotlib  # nothing else needs it

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = bars(results)
    figure, axis = pyplot.subplots(figsize=(9, 0.7 + 0.17 * len(found)), layout="constrained")
    places = range(len(found))
    for peer, color in COLORS.items():
        of = [place for place in places if found[place].peer == peer]
        lengths = [found[place].times for place in of]
        axis.barh(of, lengths, color=color, height=0.75, label=f"instead of {peer}")
    marks = [(bar.compiled, place) for place, bar in enumerate(found) if bar.compiled]
    style: dict[str, Any] = {"color": "white", "markeredgecolor": "black", "markersize": 4.5}
    what = "that under torch.compile"
    axis.plot(*zip(*marks, strict=True), "o", label=what, **style)
    for place, bar in enumerate(found):
        end = 1.04 * max(bar.times, 1.03 * (bar.compiled or 0))
        text = f"{bar.times:.1f}x" if bar.times < 10 else f"{bar.times:.0f}x"
        axis.text(end, place, text, fontsize=7.5, va="center")
    axis.set_yticks(places, [bar.name for bar in found], fontsize=7.5)
    axis.set_ylim(len(found) - 0.4, -0.6)
    axis.set_xscale("log")
    axis.set_xlim(1, 130)
    axis.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1x", "2x", "5x", "10x", "20x", "50x", "100x"])
    axis.minorticks_off()
    axis.grid(axis="x", alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    p = results[0].provenance
    axis.set_title(
        f"Times faster, forward and backward, 128³ voxels, 1 to 4 classes, float32: {p['cpu']}, "
        f"{p['threads']} threads",
        fontsize=9,
        loc="left",
    )
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
