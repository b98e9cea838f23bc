"""Records of the losses over components."""

from __future__ import annotations

import segloss_fast
from segloss_fast import functional
from tests import oracles_components
from tests.record import Keywords, LossRecord

BAD: tuple[tuple[Keywords, type[Exception], str], ...] = (
    ({"smooth_nr": -1.0}, ValueError, "smooth_nr"),
    ({"absent": "drop"}, ValueError, "absent"),
    ({"lambda_global": "a"}, TypeError, "lambda_global"),
    ({"lambda_ce": float("nan")}, ValueError, "lambda_ce"),
    ({"connectivity": "some"}, ValueError, "connectivity must be one of 'faces'"),
    ({"connectivity": 7}, ValueError, "connectivity must be one of 'faces'"),
    ({"connectivity": 1.0}, TypeError, "connectivity must be a str or an int"),
    ({"max_components": 0}, ValueError, "max_components must be at least 1"),
    ({"max_components": 2.0}, TypeError, "max_components must be an int"),
    ({"sync": "auto", "shards": True}, ValueError, "shards must be False"),
)
PRIMITIVES = ("component_sums", "connected_components", "distance_transform", "region_masks")

COMPONENT_LOSSES = (
    LossRecord(
        segloss_fast.BlobLoss,
        functional.blob_loss,
        oracles_components.blob,
        ({}, {"lambda_global": 0.0, "size_power": 0.5, "lambda_dice": 0.7}),
        region=True,
        hard=True,
        bad_keywords=(*BAD, ({"size_power": "a"}, TypeError, "size_power")),
        passes=0,
        primitives=PRIMITIVES[:2],
    ),
    LossRecord(
        segloss_fast.ComponentDiceCELoss,
        functional.component_dice_ce_loss,
        oracles_components.component_dice_ce,
        (
            {},
            {"lambda_global": 0.0, "spacing": 0.7, "lambda_ce": 0.3, "connectivity": "faces"},
        ),
        region=True,
        hard=True,
        bad_keywords=(
            *BAD,
            ({"spacing": 0.0}, ValueError, "spacing must be greater than 0"),
            ({"spacing": "1"}, TypeError, "spacing must be a number"),
        ),
        passes=0,
        primitives=PRIMITIVES,
    ),
    LossRecord(
        segloss_fast.BidirectionalComponentLoss,
        functional.bidirectional_component_loss,
        oracles_components.bidirectional_component,
        (
            {},
            {"lambda_global": 0.5, "alpha": 0.8, "threshold": 0.4, "empty": "dice"},
        ),
        region=True,
        hard=True,
        bad_keywords=(
            *BAD,
            ({"alpha": 1.5}, ValueError, "alpha"),
            ({"threshold": 1.0}, ValueError, "threshold must lie between 0 and 1"),
            ({"threshold": -0.5}, ValueError, "threshold"),
            ({"empty": "none"}, ValueError, "empty must be one of"),
        ),
        number="smooth_nr",
        passes=0,
        primitives=PRIMITIVES,
    ),
    LossRecord(
        segloss_fast.ComponentTverskyLoss,
        functional.component_tversky_loss,
        oracles_components.component_tversky,
        (
            {},
            {"lambda_global": 0.0, "alpha": 0.6, "gamma": 0.5, "offset": 1.0},
            {"background_weight": 0.2, "beta": 0.4, "connectivity": "full"},
        ),
        region=True,
        hard=True,
        bad_keywords=(
            *BAD,
            *(
                ({name: -1.0}, ValueError, name)
                for name in ("alpha", "beta", "gamma", "offset", "background_weight")
            ),
        ),
        number="alpha",
        passes=0,
        primitives=PRIMITIVES[:2],
    ),
)
