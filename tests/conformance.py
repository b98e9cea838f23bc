"""What drives the generic tests: keywords, problems, and the table of losses (tests/records.py).

A new loss gets every test of tests/test_conformance.py by adding its record to LOSSES.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.records import LOSSES, Keywords, LossRecord

__all__ = ["LOSSES", "Keywords", "LossRecord"]

COMMON_BAD_KEYWORDS: tuple[tuple[Keywords, type[Exception], str], ...] = (
    ({"activation": "relu"}, ValueError, "activation"),
    ({"reduction": "average"}, ValueError, "reduction"),
    ({"impl": "cuda"}, ValueError, "impl"),
    ({"batch": "yes"}, TypeError, "batch"),
    ({"include_background": 1}, TypeError, "include_background"),
    ({"no_such_keyword": 1}, TypeError, "no_such_keyword"),
    ({"ignore_index": "a"}, TypeError, "ignore_index"),
    ({"class_weight": 1.0}, TypeError, "class_weight"),
    ({"class_weight": [1.0, "a", 2.0]}, TypeError, "class_weight"),
    ({"class_weight": [1.0, float("nan"), 2.0]}, ValueError, "class_weight"),
    ({"class_weight": torch.ones(3, 1)}, ValueError, "class_weight"),
    ({"sync": None}, TypeError, "sync"),
    ({"sync": ""}, ValueError, "sync must be the name"),
    ({"shards": 1}, TypeError, "shards must be True or False"),
    ({"sync": "auto", "reduction": "none"}, ValueError, "needs batch=True"),
)

# Sets of common keywords; those of region losses are left out for the others.
COMMON: tuple[Keywords, ...] = (
    {},
    {"include_background": False},
    {"batch": True, "reduction": "none"},
    {"reduction": "none", "include_background": False, "class_weight": [3.0, 0.1, 0.7]},
    {"reduction": "sum", "class_weight": [0.5, 2.0, 1.0]},
    {"class_weight": [0.5, 2.0, 1.0], "absent": "skip", "smooth_nr": 0.0, "smooth_dr": 1e-3},
    {"batch": True, "absent": "skip", "smooth_nr": 1.0, "smooth_dr": 2.0},
    {"class_weight": [0.5, 2.0, 1.0], "absent": "zero"},
    {"batch": True, "absent": "zero", "reduction": "sum"},
    {"class_weight": [0.5, 2.0, 1.0], "absent": "keep"},
    {"activation": "sigmoid", "smooth_nr": 0.0, "smooth_dr": 0.0},
    {"activation": "probabilities", "batch": True},
)
CLASSES = 3


@dataclass(frozen=True)
class Problem:
    """Inputs of one call."""

    input: Tensor
    target: Tensor
    voxel_weight: Tensor | None
    ignore_index: int | None


def problem(
    kind: str,
    size: tuple[int, ...] = (5, 4, 7),
    *,
    batch: int = 2,
    classes: int = CLASSES,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    hard: bool = False,
) -> Problem:
    """Return a random problem.

    Args:
        kind: "labels"; "ignore" (labels with ignored voxels); "absent" (the last class has no
            voxel); "dense" (soft target); "weighted"; "class_weighted" (a voxel weight per class).
        size: Of the spatial dimensions.
        batch: Number of items.
        classes: Number of classes.
        dtype: Of the input.
        seed: Of the random numbers.
        hard: Whether a dense target is 0 and 1.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, classes, *size)
    x = (3 * torch.randn(shape, generator=generator)).to(dtype)
    used = max(classes - 1, 2) if kind == "absent" else max(classes, 2)
    labels = torch.randint(0, used, (batch, *size), generator=generator)
    if kind == "dense":
        values = torch.rand(shape, generator=generator)
        return Problem(x, values.round() if hard else values, None, None)
    if kind == "ignore":
        labels[torch.rand(labels.shape, generator=generator) < 0.3] = 255
        return Problem(x, labels, None, 255)
    weight = None
    if kind in ("weighted", "class_weighted"):
        channels = 1 if kind == "weighted" else classes
        weight = torch.rand((batch, channels, *size), generator=generator)
    return Problem(x, labels, weight, None)


def combine(record: LossRecord, own: Keywords, common: Keywords) -> dict[str, Any] | None:
    """Merge two sets of keywords; None where the loss does not take the combination."""
    merged = {**own, **record.accepts(common)}
    activation = merged.get("activation", "softmax")
    ce_activation = merged.get("ce_activation", activation)
    if "probabilities" in (activation, ce_activation) and activation != ce_activation:
        return None
    if ce_activation == "sigmoid" and merged.get("label_smoothing"):
        return None
    return merged
