"""kornia's Dice and Tversky losses."""

from __future__ import annotations

import random
from typing import Any

import kornia.losses
import pytest
import torch
from torch import nn

from segloss_fast.compat import kornia as compat
from tests.compat import kornia_calls
from tests.compat.grid import Call, Draw, by_block, check_block
from tests.helpers import relative_l2

pytestmark = pytest.mark.peers

EPS = (0.0, 1e-8, 1e-5, 1.0)


def dice(generator: random.Random) -> Call:
    """Return a random call of DiceLoss."""
    draw = Draw(generator)
    options = draw.options({"average": ("micro", "macro", "macro"), "eps": EPS})
    size = kornia_calls.shape(draw, (2, 2, 3), (1, 2, 3, 5))
    x, target = kornia_calls.logits(draw, size), kornia_calls.labels(draw, options, size)
    if draw.of(True, False):
        options["weight"] = kornia_calls.weights(draw, size[1])
    return Call(options, x, (target,))


def tversky(generator: random.Random) -> Call:
    """Return a random call of TverskyLoss."""
    draw = Draw(generator)
    options = draw.options({"eps": EPS})
    options |= {"alpha": draw.of(0.5, 0.3, 1, 0.0, 2.0), "beta": draw.of(0.5, 0.7, 1, 3.0)}
    size = kornia_calls.shape(draw, (2, 2, 3), (1, 2, 3, 5))
    x, target = kornia_calls.logits(draw, size), kornia_calls.labels(draw, options, size)
    return Call(options, x, (target,))


DROPS = {
    **kornia_calls.drops(
        (compat.dice_loss, compat.DiceLoss),
        (kornia.losses.dice_loss, kornia.losses.DiceLoss),
        dice,
        200,
    ),
    **kornia_calls.drops(
        (compat.tversky_loss, compat.TverskyLoss),
        (kornia.losses.tversky_loss, kornia.losses.TverskyLoss),
        tversky,
        200,
    ),
}


@by_block
@pytest.mark.parametrize("name", DROPS)
def test_equals_kornia(name: str, block: int) -> None:
    check_block(DROPS[name], block)


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_weights_that_are_parameters_get_a_gradient(average: str) -> None:
    torch.manual_seed(0)
    x, target = torch.randn(2, 3, 5, 6), torch.randint(0, 3, (2, 5, 6))
    grads: list[torch.Tensor] = []
    for package in (compat, kornia.losses):
        weight = nn.Parameter(torch.tensor([0.5, 1.0, 2.0]))
        loss = package.DiceLoss(average, weight=weight)
        assert [name for name, _ in loss.named_parameters()] == ["weight"]
        loss(x, target).backward()
        assert weight.grad is not None
        grads.append(weight.grad)
    assert relative_l2(grads[0], grads[1]) < 1e-5


def test_options_that_are_changed_later_count() -> None:
    torch.manual_seed(0)
    x, target = torch.randn(2, 3, 5, 6), torch.randint(0, 3, (2, 5, 6))
    changed: dict[str, dict[str, Any]] = {
        "DiceLoss": {"average": "macro", "eps": 1.0, "weight": torch.rand(3), "ignore_index": 1},
        "TverskyLoss": {"alpha": 0.3, "beta": 2.0, "eps": 1.0, "ignore_index": 1},
    }
    for name, changes in changed.items():
        needed = {"alpha": 0.5, "beta": 0.5} if name == "TverskyLoss" else {}
        ours, theirs = (getattr(p, name)(**needed) for p in (compat, kornia.losses))
        for attribute, value in changes.items():
            before = ours(x, target)
            setattr(ours, attribute, value)
            setattr(theirs, attribute, value)
            assert abs(ours(x, target) - before) > 1e-5, attribute
            torch.testing.assert_close(ours(x, target), theirs(x, target), rtol=1e-5, atol=1e-6)
