"""MONAI's Dice losses."""

from __future__ import annotations

import random

import monai.losses
import pytest

from segloss_fast.compat import monai as compat
from tests.compat.grid import Call, Draw, Drop, by_block, check_block
from tests.compat.monai_calls import HEAD, SMOOTH, volumes

pytestmark = pytest.mark.peers


def dice(generator: random.Random) -> Call:
    """Return a random call of DiceLoss."""
    draw = Draw(generator)
    options = draw.options(
        {**HEAD, **SMOOTH, "squared_pred": (True,), "jaccard": (True,), "soft_label": (True,)}
    )
    x, target = volumes(draw, options)
    if draw.of(True, False, False):
        options["ignore_index"] = draw.of(-1, 0, 1, 255)
    if draw.of(True, False):
        classes = x.shape[1] - (x.shape[1] > 1 and not options.get("include_background", True))
        options["weight"] = draw.of(2.0, [0.5 + c for c in range(classes)])
    return Call(options, x, (target,))


DROPS = {"DiceLoss": Drop(compat.DiceLoss, monai.losses.DiceLoss, dice, 200)}


@by_block
@pytest.mark.parametrize("name", DROPS)
def test_equals_monai(name: str, block: int) -> None:
    check_block(DROPS[name], block)
