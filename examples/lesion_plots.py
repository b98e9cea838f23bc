"""The picture of examples/small_lesions.py: a slice with lesions, recall by size, false alarms."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure  # used without pyplot, so that no display is needed
from matplotlib.lines import Line2D
from torch import Tensor

from examples.lesion_scores import BINS, Scores

COLORS = ("#4c78a8", "#d1495b")
TRUTH = "#f2c14e"
DPI = 90


def plot_lesions(
    head: tuple[Tensor, Tensor],
    predictions: dict[str, Tensor],
    runs: dict[str, list[Scores]],
    path: Path,
) -> None:
    """Draw what was trained on, and what was found.

    Args:
        head: Image and target of a head, ``[X, Y, Z]``.
        predictions: Name of the loss, and what was predicted in that head, ``[X, Y, Z]`` bool.
        runs: Name of the loss, and the scores of each seed.
        path: File to write.
    """
    figure = Figure(figsize=(12.5, 4.3), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1.5, 0.8])
    colors = dict(zip(runs, COLORS, strict=False))
    _draw_slice(left, head, predictions, colors)
    _draw_recall(middle, runs, colors)
    _draw_false_positives(right, runs, colors)
    figure.suptitle("Synthetic lesions in the MNI152 head, all seeds; lines and bars are means")
    figure.savefig(path, dpi=DPI)


def _draw_slice(
    axis: Axes, head: tuple[Tensor, Tensor], predictions: dict[str, Tensor], colors: dict[str, str]
) -> None:
    """Draw the axial slice with the most lesions' voxels, outlined."""
    image, target = head
    pick = int(target.sum((0, 1)).argmax())
    axis.imshow(image[:, :, pick].T, cmap="gray", origin="lower", vmin=0, vmax=1.2)
    outlines = {"lesions": (target, TRUTH), **{n: (p, colors[n]) for n, p in predictions.items()}}
    for number, (mask, color) in enumerate(outlines.values()):
        one = mask[:, :, pick].T.float()
        if one.any():
            axis.contour(one, [0.5], colors=color, linewidths=1.8 - 0.6 * number)
    handles = [Line2D([], [], color=color, label=name) for name, (_, color) in outlines.items()]
    axis.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), frameon=False)
    axis.set(xticks=[], yticks=[], title="a slice as the networks see it, one seed")
    axis.spines[:].set_visible(False)


def _draw_recall(axis: Axes, runs: dict[str, list[Scores]], colors: dict[str, str]) -> None:
    for number, (name, seeds) in enumerate(runs.items()):
        places = [i + 0.06 * (2 * number - 1) for i in range(len(BINS))]
        for one in seeds:
            axis.plot(places, one.recall, "o", color=colors[name], alpha=0.5, markersize=4)
        means = [fmean(one.recall[i] for one in seeds) for i in range(len(BINS))]
        axis.plot(places, means, "-", color=colors[name], label=name)
    lesions = next(iter(runs.values()))[0].lesions
    ticks = [f"{size}\n({there})" for size, there in zip(BINS, lesions, strict=True)]
    axis.set_xticks(range(len(BINS)), ticks, fontsize=8)
    axis.set(xlabel="voxels of the lesion (number of lesions)", ylim=(0, 1.03))
    axis.set_title("part of the lesions found")
    axis.legend(frameon=False, loc="lower right")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_false_positives(
    axis: Axes, runs: dict[str, list[Scores]], colors: dict[str, str]
) -> None:
    for number, (name, seeds) in enumerate(runs.items()):
        values = [one.false_positives for one in seeds]
        axis.bar(number, fmean(values), color=colors[name], alpha=0.6, width=0.6)
        axis.plot([number] * len(values), values, "o", color="black", markersize=3)
    axis.set_xticks(range(len(runs)), [name.removesuffix("Loss") for name in runs])
    axis.set_title("false positives per head")
    axis.spines[["top", "right"]].set_visible(False)
