"""How many lesions a network finds, by their size, and what it finds where none is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

import segloss_fast

SIZES = (20, 60, 200, 600)  # voxels at which the next bin begins
BINS = ("7 to 19", "20 to 59", "60 to 199", "200 to 599", "600 or more")


@dataclass(frozen=True)
class Scores:
    """What a network found in some heads.

    Attributes:
        lesions: How many there are, by size.
        found: How many of them have at least one voxel that was predicted.
        false_positives: Predicted components that touch no lesion, per head.
        dice: Of the voxels, mean over the heads.
    """

    lesions: list[int]
    found: list[int]
    false_positives: float
    dice: float

    @property
    def recall(self) -> list[float]:
        """The part that was found, by size; NaN where there is none."""
        pairs = zip(self.found, self.lesions, strict=True)
        return [found / there if there else float("nan") for found, there in pairs]


def score(pairs: Iterable[tuple[Tensor, Tensor]]) -> Scores:
    """Return the scores of some heads together.

    Args:
        pairs: Of each head the prediction and the target, ``[X, Y, Z]`` bool.
    """
    lesions = torch.zeros(len(BINS), dtype=torch.int64)
    found, wrong, dice = lesions.clone(), [], []
    for prediction, target in pairs:
        both = torch.stack([target, prediction])[None]
        components = segloss_fast.connected_components(both).labels[0]
        overlap = prediction & target
        sizes, touched = _voxels_of_each(components[0], overlap)
        bins = torch.bucketize(sizes, torch.tensor(SIZES), right=True)
        lesions += torch.bincount(bins, minlength=len(BINS))
        found += torch.bincount(bins[touched > 0], minlength=len(BINS))
        _, right = _voxels_of_each(components[1], overlap)
        wrong.append(int((right == 0).sum()))
        dice.append(float(2 * overlap.sum() / (prediction.sum() + target.sum())))
    return Scores(lesions.tolist(), found.tolist(), fmean(wrong), fmean(dice))


def _voxels_of_each(components: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
    """Return the size of each component, and how many of its voxels lie within a mask."""
    sizes = torch.bincount(components.flatten())
    inside = torch.bincount(components[within], minlength=len(sizes))
    return sizes[1:], inside[1:]


def runs_of(numbers: dict[str, Any]) -> dict[str, list[Scores]]:
    """Return name of the loss and scores of each seed, as table and plot take them.

    Args:
        numbers: What small_lesions.py writes.
    """
    runs: dict[str, list[Scores]] = {}
    for seed in numbers["seeds"].values():
        for name, scores in seed["scores"].items():
            runs.setdefault(name, []).append(Scores(**scores))
    return runs


def table(runs: dict[str, list[Scores]]) -> str:
    """Return the scores of each loss as a table in Markdown: means, and their range over seeds.

    Args:
        runs: Name of the loss, and the scores of each seed.
    """
    lesions = next(iter(runs.values()))[0].lesions
    rows: dict[str, tuple[str, Callable[[Scores], float]]] = {
        f"recall of {there} lesions of {size} voxels": ("{:.0%}", partial(_recall_of, i))
        for i, (size, there) in enumerate(zip(BINS, lesions, strict=True))
    }
    rows[f"recall of all {sum(lesions)}"] = "{:.0%}", lambda one: sum(one.found) / sum(one.lesions)
    rows["false positives per head"] = "{:.1f}", lambda one: one.false_positives
    rows["Dice of the voxels"] = "{:.3f}", lambda one: one.dice
    lines = [["mean (range)", *runs], ["---", *["--:"] * len(runs)]]
    for name, (form, value) in rows.items():
        lines.append([name, *(_spread(list(map(value, seeds)), form) for seeds in runs.values())])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _recall_of(size: int, scores: Scores) -> float:
    return scores.recall[size]


def _spread(values: list[float], form: str) -> str:
    low, mean, high = (form.format(f(values)) for f in (min, fmean, max))
    return f"{mean} ({low} to {high})" if len(values) > 1 else mean
