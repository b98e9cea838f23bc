"""segmentation-models-pytorch's LovaszLoss: its gradients are judged by the definition."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from segloss_fast.compat import smp as compat
from tests import oracles_lovasz
from tests.compat.grid import Call, Draw, Drop, by_block, check_block
from tests.compat.smp_calls import problem
from tests.compat.test_smp_region import theirs

pytestmark = pytest.mark.peers


def lovasz(generator: random.Random) -> Call:
    """Return a random call of LovaszLoss: of float32, as the peer needs, and of several classes."""
    draw = Draw(generator)
    options = draw.options({"per_image": (True, False), "from_logits": (True, False)})
    x, target = problem(
        draw, options, soft=False, dtypes=(torch.float32,), ranks=(2, 3, 4), fewest=2
    )
    if target.dtype == torch.bool:
        target = target.to(torch.uint8)  # the peer subtracts it from 1
    if "ignore_index" in options:  # where all of an item is ignored the peer returns a row of zeros
        target.flatten(1)[:, 0] = 1 - min(options["ignore_index"], 1)
    return Call(options, x, (target,))


def definition(call: Call) -> Tensor:
    """Return the loss in float64, of the definition."""
    x, (target,) = call.input, call.others
    per_image = call.options.get("per_image", False)
    ignored = call.options.get("ignore_index")
    if call.options["mode"] == "multiclass":
        labels = target.reshape(x.shape[0], *x.shape[2:])
        return oracles_lovasz.lovasz(
            "softmax", x, labels, per_image=per_image, ignore_index=ignored
        )
    x, target = x.flatten(1).unsqueeze(1), target.flatten(1)
    return oracles_lovasz.lovasz("hinge", x, target, per_image=per_image, ignore_index=ignored)


DROPS = {
    "LovaszLoss": Drop(compat.LovaszLoss, theirs("LovaszLoss", "lovasz"), lovasz, 50, definition)
}


@by_block
@pytest.mark.parametrize("name", DROPS)
def test_equals_smp(name: str, block: int) -> None:
    check_block(DROPS[name], block)


@by_block
@pytest.mark.parametrize("name", DROPS)
def test_values_are_those_of_smp(name: str, block: int) -> None:
    for number in range(block, DROPS[name].cases, 10):
        call = lovasz(random.Random(number))
        ours, peers = (
            make(**call.options)(call.input, *call.others)
            for make in (DROPS[name].ours, DROPS[name].theirs)
        )
        torch.testing.assert_close(ours, peers, rtol=1e-5, atol=1e-6)
