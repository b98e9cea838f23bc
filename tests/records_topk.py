"""The records of TopK and of generalised Wasserstein Dice (see tests/records.py)."""

from __future__ import annotations

import segloss_fast
from segloss_fast import functional
from tests import oracles, oracles_topk
from tests.record import LossRecord

MATRIX = [[0.0, 1.0, 3.0], [1.0, 0.0, 0.5], [2.0, 0.5, 0.0]]

HARDEST_LOSSES = (
    LossRecord(
        segloss_fast.TopKLoss,
        functional.topk_loss,
        oracles_topk.topk,
        ({}, {"k": 100.0}, {"k": 37.5}, {"k": 1e-3}),
        region=False,
        number="k",
        bad_keywords=(
            ({"k": 0}, ValueError, "k must be greater than 0"),
            ({"k": -1.0}, ValueError, "k must be a finite number of at least 0"),
            ({"k": 100.5}, ValueError, "k must be a finite number of .* at most 100"),
            ({"k": float("nan")}, ValueError, "k must be a finite number"),
            ({"k": "10"}, TypeError, "k must be a number"),
            ({"smooth_nr": 1.0}, TypeError, "smooth_nr"),
        ),
    ),
    LossRecord(
        segloss_fast.DiceTopKLoss,
        functional.dice_topk_loss,
        oracles.compound(
            oracles.dice, oracles_topk.topk, ("lambda_dice", "lambda_topk"), background=True
        ),
        (
            {},
            {"k": 50.0, "lambda_dice": 0.3, "lambda_topk": 2.0, "squared": True},
            {"soft_label": True},
        ),
        region=True,
        bad_keywords=(
            ({"k": 0.0}, ValueError, "k must be greater than 0"),
            ({"lambda_topk": "a"}, TypeError, "lambda_topk"),
            ({"squared": "no"}, TypeError, "squared"),
        ),
        passes=2,
        terms_again=("nll",),
    ),
)

CONFUSION_LOSSES = (
    LossRecord(
        segloss_fast.GeneralizedWassersteinDiceLoss,
        functional.generalized_wasserstein_dice_loss,
        oracles_topk.wasserstein_dice,
        (
            {},
            {"distance_matrix": MATRIX},
            {"weighting": "GDL"},
            {"distance_matrix": MATRIX, "weighting": "GDL"},
        ),
        region=True,
        bad_keywords=(
            ({"weighting": "gdl"}, ValueError, "weighting must be one of"),
            ({"distance_matrix": 1.0}, TypeError, "distance_matrix must be a matrix"),
            ({"distance_matrix": [[0.0, 1.0]]}, ValueError, "distance_matrix must be square"),
            ({"distance_matrix": [[0, 1], [-1, 0]]}, ValueError, "distance_matrix must be a fini"),
            ({"distance_matrix": [[0, 1], [1, 0.5]]}, ValueError, "0 from each class to itself"),
            ({"distance_matrix": [[0, 0], [0, 0]]}, ValueError, "a distance greater than 0"),
            ({"distance_matrix": [[0, "a"], [1, 0]]}, TypeError, "distance_matrix must be a numb"),
        ),
        passes=0,
        primitives=("confusion_sums",),
        fewest_classes=2,
    ),
)
