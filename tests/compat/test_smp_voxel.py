"""segmentation-models-pytorch's losses per voxel: focal, cross-entropy, binary cross-entropy."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from segloss_fast.compat import smp as compat
from tests.compat.grid import Call, Draw, Drop, by_block, check_block
from tests.compat.smp_calls import class_weights, problem
from tests.compat.test_smp_region import theirs

pytestmark = pytest.mark.peers

FOCAL = {
    "alpha": (None, 0.0, 0.25, 0.9),
    "gamma": (0, 0.5, 1.0, 2.0, 3.5),
    "normalized": (True, False),
}


def focal(generator: random.Random) -> Call:
    """Return a random call of FocalLoss."""
    draw = Draw(generator)
    options = draw.options({**FOCAL, "reduction": ("mean", "sum", "mean", "batchwise_mean", None)})
    if draw.of(True, False, False):
        options["reduced_threshold"] = draw.of(0.3, 0.5, 0.9)
    # In the multi-label mode the peer's mask has a dimension too many for what it masks.
    x, target = problem(draw, options, ignoring=("binary", "multiclass"))
    class_weights(draw, options, x.shape[1])
    if options["mode"] == "multiclass" and target.dim() == x.dim():
        target = target[:, 0]  # the peer takes no channel
    if draw.of(True, False, False):
        options["from_logits"] = False
        # The peer's logarithm of p / (1 - p), and its 1 - eps, are rounded near 1.
        x = torch.sigmoid(x.double().clamp(-8, 8))
    return Call(options, x, (target,))


def cross_entropy(generator: random.Random) -> Call:
    """Return a random call of SoftCrossEntropyLoss."""
    draw = Draw(generator)
    options = draw.options({"reduction": ("mean", "sum", "none"), "ignore_index": (None, 0, 255)})
    options["smooth_factor"] = draw.of(0.0, 0.1, 0.5)
    batch, classes, size = draw.of(1, 2, 3), draw.of(1, 2, 3, 5), draw.size(draw.of(0, 1, 2, 3, 4))
    x = draw.strided(draw.normal(batch, classes, *size, spread=draw.of(0.5, 5.0)))
    x = x.to(draw.of(torch.float32, torch.float32, torch.float64, torch.float16))
    labels = draw.labels(classes, batch, *size)
    ignored = options.get("ignore_index", -100)
    if ignored is not None and draw.of(True, False):
        labels = labels.masked_fill(draw.soft(*labels.shape) < draw.of(0.2, 1.1), ignored)
    if draw.of(True, False):
        labels = labels.unsqueeze(1)
    if draw.of(True, False, False):
        options["dim"] = draw.of(-1, x.dim() - 1)
        x, labels = x.movedim(1, -1), labels.movedim(1, -1) if labels.dim() == x.dim() else labels
    return Call(options, x, (labels,))


def binary(generator: random.Random) -> Call:
    """Return a random call of SoftBCEWithLogitsLoss."""
    draw = Draw(generator)
    options = draw.options(
        {
            "reduction": ("mean", "sum", "none"),
            "ignore_index": (None, 0, 1, 255),
            "smooth_factor": (None, 0.0, 0.1, 0.3),
        }
    )
    shape = [draw.of(1, 2, 3), draw.of(1, 2, 3, 5), *draw.size(draw.of(0, 1, 2, 3, 4))]
    x = draw.strided(draw.normal(*shape, spread=draw.of(0.5, 5.0)))
    x = x.to(draw.of(torch.float32, torch.float32, torch.float64, torch.float16))
    if draw.of(True, False, False):
        options["pos_weight"] = weight(draw, shape)
    if draw.of(True, False, False, False):
        options["weight"] = weight(draw, shape)
    target = draw.of(draw.soft(*shape), (draw.soft(*shape) > 0.7).float())
    ignored = options.get("ignore_index", -100)
    if ignored is not None:
        target = target.masked_fill(draw.soft(*shape) < draw.of(0.0, 0.2, 1.1), ignored)
    whole = not target.frac().any() and options.get("smooth_factor") is not None
    kind = draw.of(torch.float32, torch.float64, torch.int64 if whole else torch.float32)
    return Call(options, x, (draw.strided(target.to(kind)),))


def weight(draw: Draw, shape: list[int]) -> Tensor:
    """Return positive numbers that are broadcast to the shape."""
    classes = [shape[1], *[1] * (len(shape) - 2)]
    some = draw.of([1], [1, 1], classes, [1, *classes], shape[-1:], shape)
    return 0.5 + (draw.soft(1)[0] if some == [1, 1] else draw.soft(*some))


DROPS = {
    "FocalLoss": Drop(compat.FocalLoss, theirs("FocalLoss", "focal"), focal, 200),
    "SoftBCEWithLogitsLoss": Drop(
        compat.SoftBCEWithLogitsLoss, theirs("SoftBCEWithLogitsLoss", "soft_bce"), binary, 50
    ),
    "SoftCrossEntropyLoss": Drop(
        compat.SoftCrossEntropyLoss, theirs("SoftCrossEntropyLoss", "soft_ce"), cross_entropy, 50
    ),
}


@by_block
@pytest.mark.parametrize("name", DROPS)
def test_equals_smp(name: str, block: int) -> None:
    check_block(DROPS[name], block)
