"""kornia's Lovász losses, whose gradients the definition in float64 judges."""

from __future__ import annotations

import random
from functools import partial

import kornia.losses
import pytest
import torch
from torch import Tensor, float16, float32, float64

from segloss_fast.compat import kornia as compat
from tests.compat import kornia_calls
from tests.compat.grid import Call, Draw, by_block, check_block
from tests.helpers import gradient, relative_l2
from tests.oracles_lovasz import lovasz

pytestmark = pytest.mark.peers


def softmax(generator: random.Random) -> Call:
    """Return a random call of LovaszSoftmaxLoss."""
    draw = Draw(generator)
    size = kornia_calls.shape(draw, (2, 2, 3), (2, 3, 5))
    x = kornia_calls.logits(draw, size)
    target = draw.strided(
        draw.labels(size[1], draw.of(1, 2, 3) if size[0] == 1 else size[0], *size[2:])
    )
    options = {"weight": kornia_calls.weights(draw, size[1])} if draw.of(True, False) else {}
    dtype = draw.of(torch.int64, torch.int64, torch.int32, torch.uint8, float32)
    return Call(options, x, (target.to(dtype),))


def of_definition(call: Call) -> Tensor:
    """Return kornia's mean of the definition's losses of images and classes."""
    x, target = call.input, call.others[0].long()
    x = x.expand(target.shape[0], *x.shape[1:])
    rows = lovasz("softmax", x, target, classes="all", per_image=True, reduction="none")
    weight = call.options.get("weight")
    return (rows.mean(0) * (1 if weight is None else weight.double())).mean()


def hinge(generator: random.Random) -> Call:
    """Return a random call of LovaszHingeLoss."""
    draw = Draw(generator)
    size = kornia_calls.shape(draw, (2, 2, 3), (1,))
    x = kornia_calls.logits(draw, size)
    target = draw.strided(draw.labels(2, size[0], *size[2:]))
    dtypes = (torch.int64, torch.int64, torch.int32, torch.uint8, torch.bool, float32, float64)
    return Call({}, x, (target.to(draw.of(*dtypes, float16)),))


def of_hinge_definition(call: Call) -> Tensor:
    """Return the mean of the definition's losses of images."""
    return lovasz("hinge", call.input, call.others[0], per_image=True)


DROPS = {
    **kornia_calls.drops(
        (compat.lovasz_softmax_loss, compat.LovaszSoftmaxLoss),
        (kornia.losses.lovasz_softmax_loss, kornia.losses.LovaszSoftmaxLoss),
        softmax,
        50,
        of_definition,
    ),
    **kornia_calls.drops(
        (compat.lovasz_hinge_loss, compat.LovaszHingeLoss),
        (kornia.losses.lovasz_hinge_loss, kornia.losses.LovaszHingeLoss),
        hinge,
        50,
        of_hinge_definition,
    ),
}


@by_block
@pytest.mark.parametrize("name", DROPS)
def test_equals_kornia(name: str, block: int) -> None:
    check_block(DROPS[name], block)


@pytest.mark.parametrize("dtype", [float32, float64])
def test_hinge_of_targets_that_are_not_0_or_1(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 1, 7, 6, dtype=dtype)
    for target in (
        torch.randint(0, 3, (2, 7, 6)),
        torch.randint(-1, 2, (2, 7, 6)).float(),
        torch.rand(2, 7, 6),
    ):
        value, grad = gradient(partial(compat.lovasz_hinge_loss, target=target), x)
        peer = partial(kornia.losses.lovasz_hinge_loss, target=target)
        true, true_grad = gradient(peer, x.double())
        assert value.dtype == dtype
        torch.testing.assert_close(value.double(), true, rtol=1e-5, atol=1e-6)
        assert relative_l2(grad, true_grad) < 1e-5


def test_hinge_target_gets_a_gradient() -> None:
    torch.manual_seed(0)
    x, target = torch.randn(2, 1, 7, 6).double(), torch.rand(2, 7, 6).double()
    ours, theirs = (
        gradient(partial(package.lovasz_hinge_loss, x), target)
        for package in (compat, kornia.losses)
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_hinge_of_integer_predictions(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, target = torch.randint(0, 2, (2, 1, 7, 6)).to(dtype), torch.randint(0, 2, (2, 7, 6))
    ours, theirs = (package.lovasz_hinge_loss(x, target) for package in (compat, kornia.losses))
    torch.testing.assert_close(ours, theirs)


def test_large_images_are_closer_to_float64_than_kornias_float32() -> None:
    torch.manual_seed(0)
    x, target = torch.randn(1, 2, 512, 513), torch.randint(0, 2, (1, 512, 513))
    peer = partial(kornia.losses.lovasz_softmax_loss, target=target)
    value, grad = gradient(partial(compat.lovasz_softmax_loss, target=target), x)
    true, true_grad = gradient(peer, x.double())
    _, rounded = gradient(peer, x)
    torch.testing.assert_close(value.double(), true, rtol=1e-5, atol=0)
    assert relative_l2(grad, true_grad) < min(1e-3, relative_l2(rounded, true_grad))
