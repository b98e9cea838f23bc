"""kornia's Hausdorff losses by erosion."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import kornia.losses
import pytest
import torch
from torch import float16, float32, float64

from segloss_fast.compat import kornia as compat
from segloss_fast.compat.kornia import hausdorff
from tests.compat.grid import Call, Draw, Drop, by_block, check_block
from tests.helpers import gradient, peak_allocation

pytestmark = pytest.mark.peers


def erosion(rank: int) -> Callable[[random.Random], Call]:
    """Return what makes a random call of a loss of images or volumes."""

    def call(generator: random.Random) -> Call:
        draw = Draw(generator)
        options = draw.options(
            {
                "alpha": (2.0, 1, 0.5, 0.0),
                "k": (0, 1, 2, 5, 10),
                "reduction": ("mean", "sum", "none"),
            }
        )
        batch, classes, size = draw.of(1, 2, 3), draw.of(1, 2, 3, 5), draw.size(rank)
        x = draw.normal(batch, classes, *size, spread=draw.of(1.0, 5.0))
        kind = draw.of("softmax", "sigmoid", "any")
        x = x.softmax(1) if kind == "softmax" else x.sigmoid() if kind == "sigmoid" else x
        x = draw.strided(x).to(draw.of(float32, float64, float32, float16))
        target = draw.labels(classes, batch, 1, *size)
        if draw.of(True, False):  # large regions, of which something is left
            target[..., : max(size[-1] // 2, 1)] = 0
        return Call(options, x, (draw.strided(target),), kind)

    return call


DROPS = {
    "HausdorffERLoss": Drop(compat.HausdorffERLoss, kornia.losses.HausdorffERLoss, erosion(2), 50),
    "HausdorffERLoss3D": Drop(
        compat.HausdorffERLoss3D, kornia.losses.HausdorffERLoss3D, erosion(3), 50
    ),
}


@by_block
@pytest.mark.parametrize("name", DROPS)
def test_equals_kornia(name: str, block: int) -> None:
    check_block(DROPS[name], block)


def problem(*size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return probabilities of three classes, and labels."""
    torch.manual_seed(0)
    return torch.randn(2, 3, *size).softmax(1), torch.randint(0, 3, (2, 1, *size))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_classes_may_be_eroded_one_by_one(reduction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    p, target = problem(9, 8)
    loss = compat.HausdorffERLoss(reduction=reduction)
    together = gradient(lambda p: loss(p, target), p)
    monkeypatch.setattr(hausdorff, "CHUNK", 1)
    torch.testing.assert_close(gradient(lambda p: loss(p, target), p), together)


def test_values_that_are_stretched_from_above_0() -> None:
    # All errors are large, so that the least one is not cut off and has a gradient as well.
    torch.manual_seed(0)
    p, target = 3 + torch.rand(2, 1, 5, 6).double(), torch.zeros(2, 1, 5, 6, dtype=torch.int64)
    p[1] = 4  # all equal but at the border
    for k in (1, 2, 3):
        ours, theirs = (
            gradient(partial(package.HausdorffERLoss(k=k), target=target), p)
            for package in (compat, kornia.losses)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_gradient_by_torch_func() -> None:
    p, target = problem(6, 5)
    loss = compat.HausdorffERLoss(k=3)
    _, grad = gradient(lambda p: loss(p, target), p)
    torch.testing.assert_close(torch.func.grad(lambda p: loss(p, target))(p), grad)


def test_second_derivative() -> None:
    p, target = problem(6, 5)
    p = p.double().requires_grad_()
    seconds: list[torch.Tensor] = []
    for package in (compat, kornia.losses):
        loss = package.HausdorffERLoss(k=3)(p, target)
        (grad,) = torch.autograd.grad(loss, p, create_graph=True)
        seconds += torch.autograd.grad(grad.square().sum(), p)
    torch.testing.assert_close(*seconds, rtol=1e-6, atol=1e-9)


def test_memory_is_a_fraction_of_kornias() -> None:
    p, target = problem(12, 12, 12)
    ours, theirs = (
        peak_allocation(lambda loss=loss: gradient(lambda p: loss(p, target), p))  # type: ignore[misc]
        for loss in (compat.HausdorffERLoss3D(), kornia.losses.HausdorffERLoss3D())
    )
    assert ours < theirs / 2
