"""Records of the losses over skeletons and windows."""

from __future__ import annotations

import segloss_fast
from segloss_fast import functional
from tests import oracles_structure
from tests.record import Keywords, LossRecord

BAD_ITERATIONS: tuple[tuple[Keywords, type[Exception], str], ...] = (
    ({"iterations": -1}, ValueError, "iterations must be at least 0"),
    ({"iterations": 2.0}, TypeError, "iterations must be an int"),
    ({"smooth_nr": -1.0}, ValueError, "smooth_nr"),
    ({"absent": "drop"}, ValueError, "absent"),
)

STRUCTURE_LOSSES = (
    LossRecord(
        segloss_fast.SoftClDiceLoss,
        functional.soft_cl_dice_loss,
        oracles_structure.cl_dice,
        ({}, {"iterations": 1}),
        region=True,
        bad_keywords=BAD_ITERATIONS,
        passes=0,
        zero_if_perfect=False,
    ),
    LossRecord(
        segloss_fast.SoftDiceClDiceLoss,
        functional.soft_dice_cl_dice_loss,
        oracles_structure.dice_cl_dice,
        ({}, {"alpha": 0.2, "iterations": 0}),
        region=True,
        bad_keywords=(
            *BAD_ITERATIONS,
            ({"alpha": 1.5}, ValueError, "alpha"),
            ({"alpha": "a"}, TypeError, "alpha"),
        ),
        number="alpha",
        passes=0,
        zero_if_perfect=False,
    ),
    LossRecord(
        segloss_fast.StructuralSimilarityLoss,
        functional.structural_similarity_loss,
        oracles_structure.structural_similarity,
        ({}, {"window_size": 5, "sigma": 0.8, "beta": 0.4, "c": 0.1, "lambda_ce": 0.2}),
        region=False,
        bad_keywords=(
            ({"window_size": 4}, ValueError, "window_size must be odd"),
            ({"window_size": 67}, ValueError, "window_size must be odd"),
            ({"window_size": 3.0}, TypeError, "window_size must be an int"),
            ({"sigma": 0.0}, ValueError, "sigma must be greater than 0"),
            ({"c": 0}, ValueError, "c must be greater than 0"),
            ({"beta": 1.0}, ValueError, "beta must be less than 1"),
            ({"beta": "a"}, TypeError, "beta"),
            ({"lambda_ce": 1.5}, ValueError, "lambda_ce"),
        ),
        number="lambda_ce",
        passes=0,
    ),
)
