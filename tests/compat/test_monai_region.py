"""MONAI's losses over sums besides the plain Dice loss: masked, generalised, Tversky, Matthews."""

from __future__ import annotations

import random

import monai.losses
import pytest
import torch
from torch import Tensor

from segloss_fast.compat.monai.generalized import GeneralizedDiceLoss
from segloss_fast.compat.monai.masked_dice import MaskedDiceLoss
from segloss_fast.compat.monai.matthews import MCCLoss
from segloss_fast.compat.monai.tversky import TverskyLoss
from tests.compat.grid import Call, Draw, Drop, by_block, check_block
from tests.compat.monai_calls import HEAD, SMOOTH, ignoring, volumes, weigh

pytestmark = pytest.mark.peers


def masked_dice(generator: random.Random) -> Call:
    """Return a random call of MaskedDiceLoss."""
    draw = Draw(generator)
    options = draw.options(
        {**HEAD, **SMOOTH, "squared_pred": (True,), "jaccard": (True,), "soft_label": (True,)}
    )
    x, target = volumes(draw, options, any_values=True, with_gradient=True)
    if isinstance(options.get("other_act"), torch.nn.Module):
        options["other_act"] = torch.tanh  # MONAI sets it before a module may have modules
    weigh(draw, options, x.shape[1])
    mask = mask_of(draw, x)
    if mask is not None and mask.dtype == torch.uint8 and "to_onehot_y" not in options:
        mask = mask * 20  # whose squares are no uint8; labels would be none
    return Call(options, x, (target, mask), "" if mask is None else (mask.shape, mask.dtype))


def mask_of(draw: Draw, x: Tensor) -> Tensor | None:
    """Return a mask of this prediction, or none."""
    batch, rank = draw.of(1, x.shape[0]), x.dim() - 2
    size = draw.of(*[x.shape[2:]] * 3, [1] * rank)
    mask = draw.soft(batch, 1, *size)
    kind = draw.of("none", "bool", "bool", "int", "whole", "whole", "fractions")
    if kind == "none":
        return None
    if kind == "fractions":
        return mask
    ones: Tensor = mask < draw.of(0.0, 0.5, 1.0)
    if kind == "bool":
        return ones
    return ones.to(torch.float32 if kind == "whole" else draw.of(torch.uint8, torch.int64))


def tversky(generator: random.Random) -> Call:
    """Return a random call of TverskyLoss."""
    draw = Draw(generator)
    options = draw.options(
        {**HEAD, **SMOOTH, "alpha": (0.3, 1.0), "beta": (0.7, 0.0), "soft_label": (True,)}
    )
    x, target = volumes(draw, options, any_values=True, with_gradient=True)
    if draw.of(True, False):
        target = ignoring(draw, options, target)
    if target.dtype == torch.bool and not options.get("to_onehot_y"):
        target = target.to(torch.uint8)  # of which torch takes 1 - target
    return Call(options, x, (target,))


def generalized_dice(generator: random.Random) -> Call:
    """Return a random call of GeneralizedDiceLoss."""
    draw = Draw(generator)
    types = ("square", "simple", "uniform")
    options = draw.options({**HEAD, **SMOOTH, "w_type": types, "soft_label": (True,)})
    # Other weights MONAI writes into, so that they have no gradient.
    with_gradient = options.get("w_type") == "uniform"
    x, target = volumes(draw, options, any_values=True, with_gradient=with_gradient)
    return Call(options, x, (target,))


def matthews(generator: random.Random) -> Call:
    """Return a random call of MCCLoss."""
    draw = Draw(generator)
    options = draw.options({**HEAD, **SMOOTH})
    x, target = volumes(draw, options, with_gradient=True)
    if target.dtype == torch.bool and not options.get("to_onehot_y"):
        target = target.to(torch.uint8)  # of which torch takes 1 - target
    if draw.of(True, False, False) and not options.keys() & {"softmax", "sigmoid"}:
        x = x.round()  # perhaps without an error
    return Call(options, x, (target,))


DROPS = {
    "MaskedDiceLoss": Drop(MaskedDiceLoss, monai.losses.MaskedDiceLoss, masked_dice, 100),
    "TverskyLoss": Drop(TverskyLoss, monai.losses.TverskyLoss, tversky, 200),
    "GeneralizedDiceLoss": Drop(
        GeneralizedDiceLoss, monai.losses.GeneralizedDiceLoss, generalized_dice, 100
    ),
    "MCCLoss": Drop(MCCLoss, monai.losses.MCCLoss, matthews, 100),
}


@by_block
@pytest.mark.parametrize("name", DROPS)
def test_equals_monai(name: str, block: int) -> None:
    check_block(DROPS[name], block)
