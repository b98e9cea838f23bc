"""The table that drives the generic tests: a record per loss, and the problems to try them on.

A new loss gets every test of tests/test_conformance.py by adding its record to LOSSES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import segloss_fast
from segloss_fast import functional
from tests import oracles

Keywords = Mapping[str, Any]


@dataclass(frozen=True)
class LossRecord:
    """One loss.

    Attributes:
        module: Its class.
        function: Its functional form.
        oracle: Its definition in float64 (tests/oracles.py).
        keywords: Sets of its own keywords to try; the common ones are added by the tests.
        region: Whether it takes the keywords of region losses.
        bad_keywords: Keywords that it must refuse, with the error and a part of its text.
    """

    module: type[nn.Module]
    function: Callable[..., Tensor]
    oracle: Callable[[oracles.Volume], Tensor]
    keywords: tuple[Keywords, ...]
    region: bool
    bad_keywords: tuple[tuple[Keywords, type[Exception], str], ...] = field(default=())

    @property
    def name(self) -> str:
        """Its class's name."""
        return self.module.__name__


LOSSES = (
    LossRecord(
        segloss_fast.CrossEntropyLoss,
        functional.cross_entropy_loss,
        oracles.cross_entropy,
        ({}, {"label_smoothing": 0.1}),
        region=False,
        bad_keywords=(
            ({"label_smoothing": 1.5}, ValueError, "label_smoothing"),
            ({"label_smoothing": "a"}, TypeError, "label_smoothing"),
            ({"smooth_nr": 1.0}, TypeError, "smooth_nr"),
            ({"pos_weight": [1.0, 2.0, 3.0]}, ValueError, "pos_weight"),
            ({"label_smoothing": 0.1, "activation": "sigmoid"}, ValueError, "label_smoothing"),
        ),
    ),
    LossRecord(
        segloss_fast.FocalLoss,
        functional.focal_loss,
        oracles.focal,
        ({}, {"gamma": 1.5, "alpha": 0.25}, {"gamma": 0.5, "alpha": [0.2, 1.0, 3.0]}),
        region=False,
        bad_keywords=(
            ({"gamma": -1.0}, ValueError, "gamma"),
            ({"alpha": 2.0}, ValueError, "alpha"),
            ({"alpha": "a"}, TypeError, "alpha"),
        ),
    ),
    LossRecord(
        segloss_fast.DiceLoss,
        functional.dice_loss,
        oracles.dice,
        ({}, {"squared": True}),
        region=True,
        bad_keywords=(
            ({"smooth_nr": -1.0}, ValueError, "smooth_nr"),
            ({"smooth_dr": "a"}, TypeError, "smooth_dr"),
            ({"absent": "drop"}, ValueError, "absent"),
            ({"squared": "no"}, TypeError, "squared"),
        ),
    ),
    LossRecord(
        segloss_fast.JaccardLoss,
        functional.jaccard_loss,
        oracles.jaccard,
        ({},),
        region=True,
    ),
    LossRecord(
        segloss_fast.TverskyLoss,
        functional.tversky_loss,
        oracles.tversky,
        ({}, {"alpha": 0.3, "beta": 0.7}),
        region=True,
        bad_keywords=(
            ({"alpha": -0.1}, ValueError, "alpha"),
            ({"beta": float("nan")}, ValueError, "beta"),
        ),
    ),
    LossRecord(
        segloss_fast.DiceCELoss,
        functional.dice_ce_loss,
        oracles.compound(
            oracles.dice, oracles.cross_entropy, ("lambda_dice", "lambda_ce"), background=True
        ),
        (
            {},
            {"lambda_dice": 0.3, "lambda_ce": 2.0, "label_smoothing": 0.2},
            {"squared": True, "ce_activation": "sigmoid", "pos_weight": [1.0, 2.0, 0.5]},
        ),
        region=True,
        bad_keywords=(
            ({"lambda_ce": "a"}, TypeError, "lambda_ce"),
            ({"ce_activation": "relu"}, ValueError, "ce_activation"),
            ({"label_smoothing": -0.5}, ValueError, "label_smoothing"),
        ),
    ),
    LossRecord(
        segloss_fast.DiceFocalLoss,
        functional.dice_focal_loss,
        oracles.compound(
            oracles.dice, oracles.focal, ("lambda_dice", "lambda_focal"), background=False
        ),
        (
            {},
            {"ce_activation": "sigmoid", "alpha": 0.25, "gamma": 1.5},
            {"lambda_focal": 3.0, "squared": True, "alpha": [0.2, 1.0, 3.0]},
        ),
        region=True,
        bad_keywords=(
            ({"gamma": float("inf")}, ValueError, "gamma"),
            ({"lambda_dice": None}, TypeError, "lambda_dice"),
        ),
    ),
)

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
    {"activation": "sigmoid", "smooth_nr": 0.0, "smooth_dr": 0.0},
    {"activation": "probabilities", "batch": True},
)
REGION_ONLY = ("absent", "smooth_nr", "smooth_dr")
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
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, classes, *size)
    x = (3 * torch.randn(shape, generator=generator)).to(dtype)
    used = max(classes - 1, 2) if kind == "absent" else max(classes, 2)
    labels = torch.randint(0, used, (batch, *size), generator=generator)
    if kind == "dense":
        return Problem(x, torch.rand(shape, generator=generator), None, None)
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
    merged = {**own, **common}
    if not record.region:
        merged = {name: value for name, value in merged.items() if name not in REGION_ONLY}
    activation = merged.get("activation", "softmax")
    ce_activation = merged.get("ce_activation", activation)
    if "probabilities" in (activation, ce_activation) and activation != ce_activation:
        return None
    if ce_activation == "sigmoid" and merged.get("label_smoothing"):
        return None
    return merged
