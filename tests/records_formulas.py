"""Records of the losses that are formulas of region_sums' terms, beyond the first of them."""

from __future__ import annotations

import segloss_fast
from segloss_fast import functional
from tests import oracles_formulas
from tests.record import LossRecord

FORMULA_LOSSES = (
    LossRecord(
        segloss_fast.FocalTverskyLoss,
        functional.focal_tversky_loss,
        oracles_formulas.focal_tversky,
        ({}, {"alpha": 0.5, "beta": 0.5, "gamma": 2.0}, {"gamma": 0.75}, {"soft_label": True}),
        region=True,
        number="gamma",
        bad_keywords=(
            ({"gamma": 0.0}, ValueError, "gamma must be greater than 0"),
            ({"gamma": "a"}, TypeError, "gamma"),
            ({"alpha": -0.1}, ValueError, "alpha"),
            ({"beta": None}, TypeError, "beta"),
        ),
    ),
    LossRecord(
        segloss_fast.LogCoshDiceLoss,
        functional.log_cosh_dice_loss,
        oracles_formulas.log_cosh_dice,
        ({}, {"squared": True}, {"soft_label": True}),
        region=True,
        bad_keywords=(({"squared": 1}, TypeError, "squared"),),
    ),
    LossRecord(
        segloss_fast.SensitivitySpecificityLoss,
        functional.sensitivity_specificity_loss,
        oracles_formulas.sensitivity_specificity,
        ({}, {"r": 0.3}),
        region=True,
        without=("smooth_nr",),
        number="r",
        bad_keywords=(
            ({"r": 1.5}, ValueError, "r must be"),
            ({"smooth_nr": 1.0}, TypeError, "smooth_nr"),
            ({"smooth_dr": -1.0}, ValueError, "smooth_dr"),
        ),
    ),
    LossRecord(
        segloss_fast.MCCLoss,
        functional.mcc_loss,
        oracles_formulas.mcc,
        ({},),
        region=True,
        bad_keywords=(({"smooth_dr": -1.0}, ValueError, "smooth_dr"),),
    ),
    LossRecord(
        segloss_fast.GeneralizedDiceLoss,
        functional.generalized_dice_loss,
        oracles_formulas.generalized_dice,
        ({}, {"weighting": "simple"}, {"weighting": "uniform"}),
        region=True,
        bad_keywords=(({"weighting": "cube"}, ValueError, "weighting"),),
    ),
    LossRecord(
        segloss_fast.GeneralizedDiceFocalLoss,
        functional.generalized_dice_focal_loss,
        oracles_formulas.generalized_dice_focal,
        (
            {},
            {"ce_activation": "sigmoid", "weighting": "simple", "gamma": 1.5, "alpha": 0.25},
            {"lambda_gdl": 0.3, "lambda_focal": 2.0, "alpha": [0.2, 1.0, 3.0]},
        ),
        region=True,
        number="gamma",
        bad_keywords=(
            ({"weighting": "cube"}, ValueError, "weighting"),
            ({"lambda_gdl": None}, TypeError, "lambda_gdl"),
            ({"lambda_focal": float("inf")}, ValueError, "lambda_focal"),
            ({"gamma": -1.0}, ValueError, "gamma"),
            ({"ce_activation": "relu"}, ValueError, "ce_activation"),
        ),
    ),
    LossRecord(
        segloss_fast.BalancedCrossEntropyLoss,
        functional.balanced_cross_entropy_loss,
        oracles_formulas.balanced_cross_entropy,
        ({},),
        region=False,
        number="",
        bad_keywords=(({"smooth_nr": 1.0}, TypeError, "smooth_nr"),),
    ),
    LossRecord(
        segloss_fast.ComboLoss,
        functional.combo_loss,
        oracles_formulas.combo,
        ({}, {"alpha": 0.2, "beta": 0.7}),
        region=True,
        number="alpha",
        zero_if_perfect=False,
        bad_keywords=(
            ({"alpha": 1.5}, ValueError, "alpha"),
            ({"alpha": [0.2, 0.3, 0.5]}, TypeError, "alpha"),
            ({"beta": -0.5}, ValueError, "beta"),
        ),
    ),
    LossRecord(
        segloss_fast.ExpLogLoss,
        functional.exp_log_loss,
        oracles_formulas.exp_log,
        ({}, {"w_dice": 0.5, "w_ce": 0.7, "gamma": 1.0}, {"gamma": 1.7}),
        region=True,
        # (-log p)^-0.7 is steep where p is nearly 1: there plain PyTorch is 2.05e-6 off as well.
        float32=3e-6,
        number="gamma",
        bad_keywords=(
            ({"gamma": 0.0}, ValueError, "gamma must be greater than 0"),
            ({"w_dice": "a"}, TypeError, "w_dice"),
            ({"w_ce": float("nan")}, ValueError, "w_ce"),
        ),
    ),
    LossRecord(
        segloss_fast.UnifiedFocalLoss,
        functional.unified_focal_loss,
        oracles_formulas.unified_focal,
        ({}, {"weight": 0.3, "delta": 0.8, "gamma": 0.2}),
        region=True,
        number="gamma",
        bad_keywords=(
            ({"weight": 1.5}, ValueError, "weight"),
            ({"delta": -0.1}, ValueError, "delta"),
            ({"gamma": 2.0}, ValueError, "gamma"),
        ),
    ),
)
