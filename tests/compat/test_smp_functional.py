"""The functions of segmentation-models-pytorch's losses."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast.compat import smp as compat
from tests.compat.grid import Call, Draw, Drop, by_block, check_block
from tests.peers import smp_losses

pytestmark = pytest.mark.peers

FOCAL = {
    "gamma": (0, 0.5, 1.0, 2.0, 3.5),
    "reduction": ("mean", "sum", "batchwise_mean", "none"),
    "normalized": (True, False),
    "reduced_threshold": (None, 0.3, 0.9),
    "eps": (1e-6, 10.0),
}
REDUCTIONS = ("mean", "sum", "none")


def logits(draw: Draw) -> Tensor:
    """Return numbers of any shape with at least two dimensions."""
    shape = draw.of(1, 2, 3), draw.of(1, 2, 5), *draw.size(draw.of(0, 1, 2, 3))
    x = draw.strided(draw.normal(*shape, spread=draw.of(0.5, 3.0)))
    return x.to(draw.of(torch.float32, torch.float32, torch.float64))


def focal(generator: random.Random) -> Call:
    """Return a random call of focal_loss_with_logits."""
    draw = Draw(generator)
    options = draw.options({**FOCAL, "alpha": (None, 0.0, 0.9)})
    x = logits(draw)
    target = draw.of(draw.soft(*x.shape), draw.soft(*x.shape) > 0.5, (x > 0.1).long())
    return Call(options, x, (target,))


def softmax_focal(generator: random.Random) -> Call:
    """Return a random call of softmax_focal_loss_with_logits."""
    draw = Draw(generator)
    x = logits(draw)
    labels = draw.labels(x.shape[1], x.shape[0], *x.shape[2:])
    ignored = draw.soft(*labels.shape) < draw.of(0, 0, 0.2, 1.1)
    return Call(draw.options(FOCAL), x, (labels.masked_fill(ignored, -100),))


def score(generator: random.Random, **weights: float) -> Call:
    """Return a random call of a score."""
    draw = Draw(generator)
    options = draw.options({"smooth": (0.0, 1.0), "eps": (1e-7, 1.0), "dims": (None, (0,), 1)})
    x = logits(draw).sigmoid()
    if x.dim() > 2 and draw.of(True, False):
        options["dims"] = (0, *range(2, x.dim()))
    target = draw.of(draw.soft(*x.shape), (draw.soft(*x.shape) > 0.5).long())
    chosen = {name: draw.of(0.0, 0.3, 1.0) for name in weights}
    return Call({**options, **chosen}, x, (target,))


def wing(generator: random.Random) -> Call:
    """Return a random call of wing_loss."""
    draw = Draw(generator)
    x = logits(draw)
    options = draw.options({"width": (5, 1.5), "curvature": (0.5, 2.0), "reduction": REDUCTIONS})
    return Call(options, x, (draw.normal(*x.shape, spread=5.0),))


def smoothed(generator: random.Random) -> Call:
    """Return a random call of label_smoothed_nll_loss."""
    draw = Draw(generator)
    x = logits(draw).log_softmax(1)
    labels = draw.labels(x.shape[1], x.shape[0], *x.shape[2:])
    options = draw.options({"reduction": REDUCTIONS, "ignore_index": (None, 0, 255)})
    if options.get("ignore_index") is not None:
        labels = labels.masked_fill(draw.soft(*labels.shape) < 0.3, options["ignore_index"])
    options |= {"epsilon": draw.of(0.0, 0.1), "dim": 1}
    if draw.of(True, False):
        x, options["dim"] = x.movedim(1, -1), -1
    return Call(options, x, (labels.unsqueeze(options["dim"]) if draw.of(True, False) else labels,))


def of(module: Callable[[], Any], name: str) -> Callable[..., Any]:
    """Return what takes the options of a function."""
    return lambda **options: partial(getattr(module(), name), **options)


CALLS: dict[str, Callable[[random.Random], Call]] = {
    "focal_loss_with_logits": focal,
    "softmax_focal_loss_with_logits": softmax_focal,
    "soft_jaccard_score": score,
    "soft_dice_score": score,
    "soft_tversky_score": partial(score, alpha=0, beta=0),
    "wing_loss": wing,
    "label_smoothed_nll_loss": smoothed,
}
DROPS = {
    name: Drop(of(lambda: compat, name), of(lambda: smp_losses("_functional"), name), call, 50)
    for name, call in CALLS.items()
}


@by_block
@pytest.mark.parametrize("name", DROPS)
def test_equals_smp(name: str, block: int) -> None:
    check_block(DROPS[name], block)
