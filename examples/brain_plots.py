"""The demo's pictures: labelled slices, loss curves, and the cost of a training step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure  # used without pyplot, so that no display is needed
from matplotlib.patches import Patch
from torch import Tensor

from examples.brain_data import CLASSES, Head
from examples.brain_step import Cost

COLORS = ("#00000000", "#3b7dd8", "#f28e2b", "#fbe3a4")  # one per class; background is transparent
OURS, THEIRS = "#d1495b", "#4c566a"
DPI = 110


def plot_slices(head: Head, image: Tensor, labellings: dict[str, Tensor], path: Path) -> None:
    """Draw three slices of the slab: the corrupted image, and every labelling beside it.

    Args:
        head: The data.
        image: ``[X, Y, slab]``, what the network saw.
        labellings: Title and class indices ``[X, Y, slab]``.
        path: File to write.
    """
    brain = (head.labels[:, :, head.slab] > 0).nonzero()
    low, high = brain.amin(dim=0).tolist(), brain.amax(dim=0).tolist()
    box = (slice(low[0], high[0] + 1), slice(low[1], high[1] + 1))
    picks = np.linspace(0, image.shape[2] - 1, 5).round().astype(int)[1:-1].tolist()
    columns = 1 + len(labellings)
    figure = Figure(figsize=(2.1 * columns, 2.55 * len(picks) + 0.9), layout="constrained")
    axes = figure.subplots(len(picks), columns, squeeze=False)
    for row, pick in zip(axes, picks, strict=True):
        row[0].imshow(image[box][:, :, pick].T, cmap="gray", origin="lower", vmin=0, vmax=1.2)
        height = (head.slab.start + pick) * head.resolution
        row[0].set_ylabel(f"{height} mm above the lowest slice", fontsize=8)
        for axis, labels in zip(row[1:], labellings.values(), strict=True):
            axis.imshow(
                labels[box][:, :, pick].T,
                cmap=ListedColormap(COLORS),
                origin="lower",
                vmin=0,
                vmax=len(CLASSES) - 1,
                interpolation="nearest",
            )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.suptitle(
        f"Held-out axial slices of the MNI152 head (a population average), {head.resolution} mm"
    )
    for axis, title in zip(axes[0], ["noisy input", *labellings], strict=True):
        axis.set_title(title, fontsize=11)
    handles = [
        Patch(facecolor=color, edgecolor="gray", label=name)
        for name, color in zip(CLASSES[1:], COLORS[1:], strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.savefig(path, dpi=DPI)


def plot_losses(ours: list[float], reference: list[float], impl: str, path: Path) -> None:
    """Draw the loss curves of the two trainings over one another, and their difference below.

    Args:
        ours: Loss of every step, with ``impl``.
        reference: The same with the reference implementation.
        impl: What ``ours`` ran.
        path: File to write.
    """
    steps = range(1, len(ours) + 1)
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    above.plot(steps, ours, color=OURS, alpha=0.5, linewidth=4, label=f"segloss_fast, {impl}")
    above.plot(steps, reference, "--", color=THEIRS, linewidth=1.3, label="segloss_fast, reference")
    above.set(ylabel="DiceCELoss", title="Same seed, same batches: the loss of two trainings")
    above.legend(frameon=False)
    gap = np.maximum(np.abs(np.subtract(ours, reference)), 1e-9)
    below.set_title(
        "Rounding alone makes them drift apart (equal losses are drawn at 1e-9)", size=9
    )
    below.semilogy(steps, gap, color=THEIRS, linewidth=1.2)
    below.hlines(1e-5, 1, 5, color=OURS, linewidth=2, label="promised: 1e-5 in the first 5 steps")
    below.set(xlabel="step", ylabel="|difference|", ylim=(5e-10, None), xlim=(1, len(ours)))
    below.legend(frameon=False, loc="lower right")
    for axis in (above, below):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=DPI)


def plot_costs(costs: dict[str, Cost], caption: str, path: Path) -> None:
    """Draw time and memory of a training step's loss as bars.

    Args:
        costs: Name and cost of every loss, ours first.
        caption: What was measured, and on what machine.
        path: File to write.
    """
    figure = Figure(figsize=(8.5, 0.45 * len(costs) + 1.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    names = list(costs)[::-1]
    colors = [OURS if name == names[-1] else THEIRS for name in names]
    figure.suptitle(f"DiceCELoss, forward + backward: {caption}", fontsize=10)
    for axis, title, values in (
        (panels[0], "time (ms)", [costs[name].milliseconds for name in names]),
        (
            panels[1],
            "memory above inputs and gradient (MB)",
            [costs[name].megabytes for name in names],
        ),
    ):
        bars = axis.barh(names, values, color=colors)
        axis.bar_label(bars, [f"{value:.1f}" for value in values], padding=3)
        axis.set(xlabel=title, xlim=(0, 1.18 * max(values)))
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=DPI)


def plot_progress(runs: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw Dice and boundary error against the time of training, a curve for each loss.

    Args:
        runs: Name, and the rows ``seconds``, ``dice`` and ``surface`` of one length.
        path: File to write.
    """
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    colors = [colormaps["tab10"](i) for i in range(10)]
    for i, (name, run) in enumerate(runs.items()):
        for axis, row in ((left, "dice"), (right, "surface")):
            style = {"color": colors[i % len(colors)], "linewidth": 1.4, "markersize": 3}
            axis.plot(run["seconds"], run[row], "o-", label=name, **style)
    left.set(title="Dice of gray and white matter", ylabel="mean Dice")
    right.set(title="Their boundary error", ylabel="95 % surface distance (mm)", yscale="log")
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter(lambda y, _: f"{y:g}" if f"{y:g}"[0] in "235" else "")
    for axis in (left, right):
        axis.set_xlabel("seconds of training")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    figure.savefig(path, dpi=DPI)
