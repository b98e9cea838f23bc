"""MONAI's Dice losses."""

from __future__ import annotations

import random

import monai.losses
import pytest

from segloss_fast.compat import monai as compat
from tests.compat.grid import Call, Draw, Drop, by_block, check_block
from tests.compat.monai_calls import HEAD, SMOOTH, ignoring, volumes, weigh

pytestmark = pytest.mark.peers


def dice(generator: random.Random) -> Call:
    """Return a random call of DiceLoss."""
    draw = Draw(generator)
    options = draw.options(
        {**HEAD, **SMOOTH, "squared_pred": (True,), "jaccard": (True,), "soft_label": (True,)}
    )
    x, target = volumes(draw, options, any_values=True, with_gradient=True)
    if draw.of(True, False):
        target = ignoring(draw, options, target)
    weigh(draw, options, x.shape[1])
    return Call(options, x, (target,))


DROPS = {"DiceLoss": Drop(compat.DiceLoss, monai.losses.DiceLoss, dice, 200)}


@by_block
@pytest.mark.parametrize("name", DROPS)
def test_equals_monai(name: str, block: int) -> None:
    check_block(DROPS[name], block)
