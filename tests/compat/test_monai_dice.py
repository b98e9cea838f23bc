"""MONAI's Dice losses."""

from __future__ import annotations

import random

import monai.losses
import pytest
import torch
from torch.nn.functional import one_hot

from segloss_fast.compat import monai as compat
from tests.compat.grid import Call, Draw, Drop, by_block, check_block

pytestmark = pytest.mark.peers

HEAD = {
    "include_background": (True, False),
    "reduction": ("mean", "sum", "none"),
    "batch": (True, False),
}
SMOOTH = {"smooth_nr": (0.0, 1e-5, 1.0), "smooth_dr": (1e-5, 1.0)}


def volumes(draw: Draw, options: dict[str, object]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a prediction and a target that fit each other, and set the options of both."""
    rank, batch, classes = draw.of(1, 2, 3, 4), draw.of(1, 2, 3), draw.of(1, 2, 3, 5)
    size = draw.size(rank)
    x = draw.strided(draw.normal(batch, classes, *size, spread=draw.of(0.5, 3.0)))
    x = x.to(draw.of(torch.float32, torch.float32, torch.float64, torch.float16))
    activation = draw.of("softmax", "sigmoid", None)
    if activation is None:
        x = x.sigmoid()
    else:
        options[activation] = True
    labels = draw.labels(max(classes, 2), batch, 1, *size)
    kind = draw.of("labels", "one-hot", "soft")
    if kind == "labels" and classes > 1:
        options["to_onehot_y"] = True
        return x, labels.to(draw.of(torch.uint8, torch.int16, torch.int64, torch.float32))
    if kind == "soft":
        return x, draw.strided(draw.soft(*x.shape))
    hot = labels if classes == 1 else one_hot(labels[:, 0], classes).movedim(-1, 1)
    norms = "squared_pred" in options or "soft_label" in options  # which torch takes of floats only
    dtypes = (torch.float32,) if norms else (torch.bool, torch.uint8, torch.int64, torch.float32)
    return x, hot.to(draw.of(*dtypes))


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
