"""The table of the losses that the generic tests run over: a record per loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

import segloss_fast
from segloss_fast import functional
from tests import oracles, oracles_boundary
from tests.record import Keywords, LossRecord
from tests.records_components import COMPONENT_LOSSES
from tests.records_formulas import FORMULA_LOSSES
from tests.records_structure import STRUCTURE_LOSSES
from tests.records_topk import CONFUSION_LOSSES, HARDEST_LOSSES

__all__ = ["LOSSES", "LOVASZ_LOSSES", "Keywords", "LossRecord"]

REGION_SUM_LOSSES = (
    LossRecord(
        segloss_fast.CrossEntropyLoss,
        functional.cross_entropy_loss,
        oracles.cross_entropy,
        ({}, {"label_smoothing": 0.1}),
        region=False,
        number="label_smoothing",
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
        number="gamma",
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
        ({}, {"squared": True}, {"soft_label": True}, {"soft_label": True, "squared": True}),
        region=True,
        bad_keywords=(
            ({"smooth_nr": -1.0}, ValueError, "smooth_nr"),
            ({"smooth_dr": "a"}, TypeError, "smooth_dr"),
            ({"absent": "drop"}, ValueError, "absent"),
            ({"squared": "no"}, TypeError, "squared"),
            ({"soft_label": 1}, TypeError, "soft_label"),
        ),
    ),
    LossRecord(
        segloss_fast.JaccardLoss,
        functional.jaccard_loss,
        oracles.jaccard,
        ({}, {"soft_label": True}),
        region=True,
    ),
    LossRecord(
        segloss_fast.TverskyLoss,
        functional.tversky_loss,
        oracles.tversky,
        ({}, {"alpha": 0.3, "beta": 0.7}, {"soft_label": True, "alpha": 0.2, "beta": 0.5}),
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
            {"soft_label": True, "lambda_dice": 0.3},
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
            {"soft_label": True},
        ),
        region=True,
        bad_keywords=(
            ({"gamma": float("inf")}, ValueError, "gamma"),
            ({"lambda_dice": None}, TypeError, "lambda_dice"),
        ),
    ),
)

BAD_SPACING: tuple[tuple[Keywords, type[Exception], str], ...] = (
    ({"spacing": 0.0}, ValueError, "spacing must be greater than 0"),
    ({"spacing": (1.0, -2.0, 1.0)}, ValueError, "spacing must be a finite number"),
    ({"spacing": [1.0, float("inf")]}, ValueError, "spacing must be a finite number"),
    ({"spacing": "1"}, TypeError, "spacing must be a number"),
    ({"spacing": [1.0, None]}, TypeError, "spacing must be a number"),
    ({"smooth_nr": 1.0}, TypeError, "smooth_nr"),
)
BAD_ALPHA: tuple[tuple[Keywords, type[Exception], str], ...] = (
    ({"alpha": -1.0}, ValueError, "alpha"),
    ({"alpha": "a"}, TypeError, "alpha"),
)
# The fields are float32, and so is their product with a voxel weight.
FIELD = 2e-7
BOTH = ("region_sums", "distance_transform")

BOUNDARY_LOSSES = (
    LossRecord(
        segloss_fast.HausdorffDTLoss,
        functional.hausdorff_dt_loss,
        oracles_boundary.hausdorff_dt,
        ({}, {"alpha": 1.5, "spacing": 0.7}),
        region=False,
        bad_keywords=(*BAD_SPACING, *BAD_ALPHA),
        number="alpha",
        tolerance=FIELD,
        primitives=BOTH,
    ),
    LossRecord(
        segloss_fast.LogHausdorffDTLoss,
        functional.log_hausdorff_dt_loss,
        oracles_boundary.log_hausdorff_dt,
        ({}, {"alpha": 1.0, "spacing": 2.5}),
        region=False,
        bad_keywords=(*BAD_SPACING, *BAD_ALPHA),
        number="alpha",
        tolerance=FIELD,
        primitives=BOTH,
    ),
    LossRecord(
        segloss_fast.HausdorffERLoss,
        functional.hausdorff_er_loss,
        oracles_boundary.hausdorff_er,
        ({}, {"alpha": 1.5, "iterations": 3}),
        region=False,
        bad_keywords=(
            *BAD_ALPHA,
            ({"iterations": 0}, ValueError, "iterations must be at least 1"),
            ({"iterations": 2.0}, TypeError, "iterations must be an int"),
            ({"spacing": 1.0}, TypeError, "spacing"),
        ),
        number="alpha",
        tolerance=1e-10,
        passes=0,
    ),
    LossRecord(
        segloss_fast.BoundaryLoss,
        functional.boundary_loss,
        oracles_boundary.boundary,
        ({}, {"spacing": 2.5}),
        region=False,
        bad_keywords=BAD_SPACING,
        number="spacing",
        tolerance=FIELD,
        primitives=BOTH,
        zero_if_perfect=False,
    ),
    LossRecord(
        segloss_fast.DistancePenalizedCELoss,
        functional.distance_penalized_ce_loss,
        oracles_boundary.distance_penalized_ce,
        ({}, {"spacing": 0.7}),
        region=False,
        bad_keywords=BAD_SPACING,
        number="spacing",
        tolerance=FIELD,
        primitives=BOTH,
        passes=2,
    ),
    LossRecord(
        segloss_fast.ShapeAwareLoss,
        functional.shape_aware_loss,
        oracles_boundary.shape_aware,
        ({}, {"spacing": 0.7}),
        region=False,
        bad_keywords=BAD_SPACING,
        number="spacing",
        tolerance=FIELD,
        primitives=BOTH,
        passes=2,
    ),
)

LOSSES = (
    *REGION_SUM_LOSSES,
    *FORMULA_LOSSES,
    *BOUNDARY_LOSSES,
    *HARDEST_LOSSES,
    *CONFUSION_LOSSES,
    *STRUCTURE_LOSSES,
    *COMPONENT_LOSSES,
)

# By the activation of the primitive.
LOVASZ_LOSSES: dict[str, tuple[Callable[..., Any], Callable[..., Tensor]]] = {
    "softmax": (segloss_fast.LovaszSoftmaxLoss, functional.lovasz_softmax_loss),
    "sigmoid": (segloss_fast.LovaszSigmoidLoss, functional.lovasz_sigmoid_loss),
    "hinge": (segloss_fast.LovaszHingeLoss, functional.lovasz_hinge_loss),
}
