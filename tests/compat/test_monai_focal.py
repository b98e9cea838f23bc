"""MONAI's focal loss and its unified focal losses."""

from __future__ import annotations

import random
from typing import Any

import monai.losses
import monai.losses.unified_focal_loss as peers
import pytest
import torch
from torch import Tensor

from segloss_fast.compat.monai.focal import FocalLoss
from segloss_fast.compat.monai.unified_focal import (
    AsymmetricFocalLoss,
    AsymmetricFocalTverskyLoss,
    AsymmetricUnifiedFocalLoss,
)
from tests.compat.exact import in_float64
from tests.compat.grid import Call, Draw, Drop, by_block, check, check_block

pytestmark = pytest.mark.peers

LABELS = (torch.uint8, torch.int16, torch.int64, torch.float32)
VALUES = (torch.bool, torch.uint8, torch.int64, torch.float32, torch.float64)


def with_ignored(draw: Draw, labels: Tensor, ignore_index: int | None) -> Tensor:
    """Return labels some of which are the one that does not count."""
    if ignore_index is None:
        return labels
    return torch.where(draw.soft(*labels.shape) < 0.3, ignore_index, labels)


def one_counts(call: Call) -> Call:
    """Return a call in which a voxel of each item counts, of dtypes that MONAI can negate.

    Where none counts, MONAI's power below one has an infinite derivative, and the gradient is NaN.
    It computes 1 - y and -y in the dtype of one-hot values, and -1 is 255 there in uint8.
    """
    options, target = call.options, call.others[0].clone()
    if not options.get("to_onehot_y") and target.dtype in (torch.bool, torch.uint8):
        target = target.to(torch.int64)
    if "ignore_index" in options:
        first = (slice(None), slice(None), *[0] * (target.dim() - 2))
        corner = target[first]
        corner.zero_()
        corner[:, -1] = 0 if target.shape[1] == 1 and options["ignore_index"] == 1 else 1
        if target.shape[1] > 1 and options["ignore_index"] == target.shape[1] - 1:
            corner[:] = corner.flip(1)
    return Call(options, call.input, (target,))


def target_of(draw: Draw, x: Tensor, options: dict[str, Any]) -> Tensor:
    """Return labels, one-hot or soft values, and set the options that they need."""
    classes, shape = x.shape[1], (x.shape[0], 1, *x.shape[2:])
    labels = draw.labels(max(classes, 2), *shape)
    ignored = options.get("ignore_index")
    kind = draw.of("labels", "one-hot", "soft")
    if kind == "soft":
        return draw.strided(draw.soft(*x.shape))
    if classes == 1:
        labels = with_ignored(draw, labels, None if ignored == -1 else ignored)
        return labels.to(draw.of(*LABELS if ignored == 255 else VALUES))
    if kind == "labels":
        options["to_onehot_y"] = True
        labels = with_ignored(draw, labels, ignored)
        return labels.to(draw.of(*(LABELS[1:] if ignored == -1 else LABELS)))
    hot = (labels == torch.arange(classes).view(1, -1, *[1] * (x.dim() - 2))).float()
    if ignored is not None:  # MONAI cannot subtract truth values; without a class where ignored
        hot = hot * (draw.soft(*shape) < 0.7)
        return hot.to(draw.of(*VALUES[1:]))
    return hot.to(draw.of(*VALUES))


def focal(generator: random.Random) -> Call:
    """Return a random call of FocalLoss."""
    draw = Draw(generator)
    options = draw.options(
        {
            "include_background": (True, False),
            "gamma": (0, 0.5, 1.0, 2.5),
            "reduction": ("mean", "sum", "none"),
            "use_softmax": (True,),
        }
    )
    if draw.of(True, False, False):
        options["ignore_index"] = draw.of(-1, 0, 1, 255)
    rank, batch, classes = draw.of(0, 1, 2, 3, 4), draw.of(1, 2, 3), draw.of(1, 2, 3, 5)
    x = draw.strided(draw.normal(batch, classes, *draw.size(rank), spread=draw.of(0.5, 3.0)))
    x = x.to(draw.of(torch.float32, torch.float32, torch.float64, torch.float16))
    share = classes - (classes > 1 and not options.get("include_background", True))
    rows = [0.5 + c for c in range(share)]
    if draw.of(True, False):
        options["alpha"] = draw.of(0.25, 1, [a / share for a in rows], torch.tensor(0.75))
    if draw.of(True, False):
        options["weight"] = draw.of(2.0, rows if share > 1 else 3, torch.tensor(0.5))
    target = target_of(draw, x, options)
    if target.is_floating_point() and not options.get("to_onehot_y"):
        target.requires_grad_(draw.of(True, False, False))
    return Call(options, x, (target,))


def probabilities(draw: Draw, classes: int, rank: int, share: float) -> Tensor:
    """Return values in [0, 1], and this share of them 0 or 1."""
    x = draw.normal(draw.of(1, 2, 3), classes, *draw.size(rank), spread=draw.of(0.5, 3.0)).sigmoid()
    x = torch.where(draw.soft(*x.shape) < share, x.round(), x)
    return draw.strided(x).to(draw.of(torch.float32, torch.float32, torch.float64, torch.float16))


UNIFIED = {"reduction": ("mean", "sum", "none"), "delta": (0.3, 0.7), "gamma": (0.0, 0.5, 0.9)}


def part(generator: random.Random) -> Call:
    """Return a random call of a part of the unified focal loss."""
    draw = Draw(generator)
    options = draw.options(UNIFIED)
    share = draw.of(0.0, 0.3)
    if share:
        options["epsilon"] = 2.0**-17  # float32 has 1 less this, but not 1 - 1e-7
    if draw.of(True, False, False):
        options["ignore_index"] = draw.of(-1, 0, 1, 255)
    x = probabilities(draw, draw.of(2, 2, 3), draw.of(1, 2, 3), share)
    return one_counts(Call(options, x, (target_of(draw, x, options),)))


def unified(generator: random.Random) -> Call:
    """Return a random call of AsymmetricUnifiedFocalLoss."""
    draw = Draw(generator)
    options = draw.options({**UNIFIED, "weight": (0.0, 0.3, 1.0)})
    if draw.of(True, False, False):
        options["ignore_index"] = draw.of(-1, 0, 1, 255)
    classes = draw.of(1, 1, 2, 2, 3)
    if classes == 3:
        options["num_classes"] = 3
    x = probabilities(draw, classes, draw.of(2, 3), 0.0)
    target = target_of(draw, x, options)
    call = one_counts(Call(options, x, (target,)))
    if classes == 1 and draw.of(True, False, False):
        options["to_onehot_y"] = True
    return call


DROPS = {
    "AsymmetricFocalTverskyLoss": Drop(
        AsymmetricFocalTverskyLoss, peers.AsymmetricFocalTverskyLoss, part, 200
    ),
    "AsymmetricFocalLoss": Drop(AsymmetricFocalLoss, peers.AsymmetricFocalLoss, part, 200),
    "AsymmetricUnifiedFocalLoss": Drop(
        AsymmetricUnifiedFocalLoss, peers.AsymmetricUnifiedFocalLoss, unified, 200
    ),
    "FocalLoss": Drop(
        FocalLoss, monai.losses.FocalLoss, focal, 200, in_float64(monai.losses.FocalLoss)
    ),
}


@by_block
@pytest.mark.parametrize("name", DROPS)
def test_equals_monai(name: str, block: int) -> None:
    check_block(DROPS[name], block)


@pytest.mark.parametrize("name", [name for name in DROPS if name.startswith("Asymmetric")])
def test_large_inputs_in_pieces(name: str) -> None:
    draw = Draw(random.Random(0))
    x, labels = draw.normal(2, 2, 600, 300).sigmoid(), draw.labels(2, 2, 1, 600, 300)
    x[..., ::20] = 0  # so that it has to be clamped
    check(DROPS[name], Call({"to_onehot_y": True}, x, (labels,)))
    if "Unified" in name:
        x, values = draw.normal(3, 1, 600, 300).sigmoid(), draw.soft(3, 1, 600, 300)
        check(DROPS[name], Call({}, x, (values,)))
