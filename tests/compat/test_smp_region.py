"""segmentation-models-pytorch's losses over sums: Dice, Jaccard, Tversky, MCC."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast.compat import smp as compat
from tests.compat.grid import Call, Draw, Drop, by_block, check_block
from tests.compat.smp_calls import region
from tests.peers import smp_losses

pytestmark = pytest.mark.peers

SMOOTH = {
    "log_loss": (True, False),
    "from_logits": (True,),
    "smooth": (0.0, 1e-5, 1.0, 1),
    "eps": (1e-7, 1e-3, 1.0),
}


def ratio(generator: random.Random) -> Call:
    """Return a random call of DiceLoss or JaccardLoss."""
    draw = Draw(generator)
    options = draw.options(SMOOTH)
    x, target = region(draw, options)
    return Call(options, x, (target,))


def tversky(generator: random.Random) -> Call:
    """Return a random call of TverskyLoss."""
    draw = Draw(generator)
    weights = {"alpha": (0.0, 0.3, 1.0), "beta": (0.0, 0.7, 1.0), "gamma": (0.75, 1.0, 1.5, 2)}
    options = draw.options({**SMOOTH, **weights})
    if options.get("gamma") == 0.75:  # a loss of 0 may be less than 0 by the peer's rounding
        options["beta"] = 0.7
    x, target = region(draw, options)
    return Call(options, x, (target,))


def ignored(call: Call) -> Tensor:
    """Return where the input of a call does not count."""
    x: Tensor = call.input
    target: Tensor = call.others[0]
    shape = (len(x), -1, *x.shape[2:]) if target.numel() * x.shape[1] == x.numel() else x.shape
    label = call.options.get("ignore_index", math.nan)
    return torch.eq(target, label).reshape(shape).expand(x.shape)


def matthews(generator: random.Random) -> Call:
    """Return a random call of MCCLoss."""
    draw = Draw(generator)
    options = draw.options({"eps": (1e-5, 1e-2, 1.0)})
    size = draw.size(draw.of(1, 2, 3, 4))
    x = draw.normal(draw.of(1, 2, 3), draw.of(1, 1, 2), *size, spread=draw.of(0.5, 2.0))
    x = draw.strided(x.to(draw.of(torch.float32, torch.float32, torch.float64)).sigmoid())
    target = (draw.soft(*x.shape) > draw.of(0.1, 0.7, 0.9999)).to(
        draw.of(torch.uint8, torch.int64, torch.float32, torch.float64)
    )
    target = draw.of(target, target, draw.soft(*x.shape))
    if x.shape[1] == 1:
        x, target = draw.of((x, target), (x[:, 0], target), (x, target[:, 0]))
    return Call(options, x, (draw.strided(target),))


def theirs(name: str, module: str) -> Any:  # noqa: ANN401
    """Return the constructor of a peer's class, which is imported when it is called."""
    return lambda **options: getattr(smp_losses(module), name)(**options)


DROPS = {
    "DiceLoss": Drop(compat.DiceLoss, theirs("DiceLoss", "dice"), ratio, 200),
    "JaccardLoss": Drop(compat.JaccardLoss, theirs("JaccardLoss", "jaccard"), ratio, 50),
    "TverskyLoss": Drop(
        compat.TverskyLoss, theirs("TverskyLoss", "tversky"), tversky, 200, ignored=ignored
    ),
    "MCCLoss": Drop(compat.MCCLoss, theirs("MCCLoss", "mcc"), matthews, 50),
}


@by_block
@pytest.mark.parametrize("name", DROPS)
def test_equals_smp(name: str, block: int) -> None:
    check_block(DROPS[name], block)
