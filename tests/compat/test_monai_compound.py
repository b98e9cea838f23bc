"""MONAI's compound losses: Dice with cross-entropy, and with focal loss."""

from __future__ import annotations

import random
from typing import Any

import monai.losses
import pytest
import torch

from segloss_fast.compat.monai.compound import DiceCELoss
from segloss_fast.compat.monai.compound_focal import DiceFocalLoss, GeneralizedDiceFocalLoss
from tests.compat.exact import in_float64
from tests.compat.grid import Call, Draw, Drop, by_block, check_block
from tests.compat.monai_calls import HEAD, SMOOTH, volumes

pytestmark = pytest.mark.peers


def dice_ce(generator: random.Random) -> Call:
    """Return a random call of DiceCELoss."""
    draw = Draw(generator)
    options = draw.options(
        {
            **HEAD,
            **SMOOTH,
            "reduction": ("mean", "sum"),
            "squared_pred": (True,),
            "jaccard": (True,),
            "lambda_dice": (0.0, 0.5),
            "lambda_ce": (0.0, 2.0),
            "label_smoothing": (0.0, 0.1, 1.0),
        }
    )
    x, target = volumes(draw, options, any_values=True, with_gradient=True)
    if draw.of(True, False):
        options["weight"] = torch.linspace(0.5, 2.0, x.shape[1], dtype=x.dtype)
    return Call(options, x, (target,))


FOCAL: dict[str, Any] = {"gamma": (0.0, 0.5, 3), "lambda_focal": (0.0, 2.0)}


def dice_focal(generator: random.Random) -> Call:
    """Return a random call of DiceFocalLoss."""
    draw = Draw(generator)
    options = draw.options(
        {
            **HEAD,
            **SMOOTH,
            **FOCAL,
            "squared_pred": (True,),
            "jaccard": (True,),
            "lambda_dice": (0.0, 0.5),
            "alpha": (0.25, 1),
        }
    )
    x, target = volumes(draw, options, any_values=True, with_gradient=True)
    if draw.of(True, False):
        options["weight"] = class_weight(draw, options, x.shape[1])
    return Call(options, x, (target,))


def generalized_dice_focal(generator: random.Random) -> Call:
    """Return a random call of GeneralizedDiceFocalLoss."""
    draw = Draw(generator)
    options = draw.options(
        {
            **HEAD,
            **SMOOTH,
            **FOCAL,
            "w_type": ("square", "simple", "uniform"),
            "lambda_gdl": (0.0, 0.5),
        }
    )
    with_gradient = options.get("w_type") == "uniform"  # MONAI writes into other weights
    x, target = volumes(draw, options, any_values=True, with_gradient=with_gradient)
    if draw.of(True, False):
        options["weight"] = class_weight(draw, options, x.shape[1])
    return Call(options, x, (target,))


def class_weight(draw: Draw, options: dict[str, Any], classes: int) -> float | list[float]:
    """Return a weight, or one per class that has a share."""
    classes -= classes > 1 and not options.get("include_background", True)
    found: float | list[float] = draw.of(2.0, [0.5 + c for c in range(classes)])
    return found if classes > 1 else 2.0


PEERS = {
    "DiceFocalLoss": in_float64(monai.losses.DiceFocalLoss),
    "GeneralizedDiceFocalLoss": in_float64(monai.losses.GeneralizedDiceFocalLoss),
}
DROPS = {
    "DiceCELoss": Drop(DiceCELoss, monai.losses.DiceCELoss, dice_ce, 200),
    "DiceFocalLoss": Drop(
        DiceFocalLoss, monai.losses.DiceFocalLoss, dice_focal, 200, PEERS["DiceFocalLoss"]
    ),
    "GeneralizedDiceFocalLoss": Drop(
        GeneralizedDiceFocalLoss,
        monai.losses.GeneralizedDiceFocalLoss,
        generalized_dice_focal,
        50,
        PEERS["GeneralizedDiceFocalLoss"],
    ),
}


@by_block
@pytest.mark.parametrize("name", DROPS)
def test_equals_monai(name: str, block: int) -> None:
    check_block(DROPS[name], block)
