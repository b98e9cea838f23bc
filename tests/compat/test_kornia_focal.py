"""kornia's focal losses."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import kornia.losses
import pytest
import torch

from segloss_fast.compat import kornia as compat
from tests.compat import kornia_calls
from tests.compat.grid import Call, Draw, by_block, check_block
from tests.helpers import gradient

pytestmark = pytest.mark.peers

REDUCTION = ("none", "mean", "mean", "sum")
ALPHA = (None, 0.25, 0.75, 0.0, 1, 1.5)
GAMMA = (0.0, 0.5, 1, 2.0, 3.5)


def focal(generator: random.Random) -> Call:
    """Return a random call of FocalLoss."""
    draw = Draw(generator)
    options = draw.options({"gamma": GAMMA, "reduction": REDUCTION}, given=0.8)
    options["alpha"] = draw.of(*ALPHA)
    size = kornia_calls.shape(draw, (0, 1, 2, 3, 4), (1, 2, 3, 5))
    x, target = kornia_calls.logits(draw, size), kornia_calls.labels(draw, options, size)
    if draw.of(True, False):
        options["weight"] = kornia_calls.weights(draw, size[1])
    return Call(options, x, (target,))


def binary_focal(generator: random.Random) -> Call:
    """Return a random call of BinaryFocalLossWithLogits."""
    draw = Draw(generator)
    options = draw.options({"gamma": GAMMA, "reduction": REDUCTION}, given=0.8)
    options["alpha"] = draw.of(*ALPHA)
    size = kornia_calls.shape(draw, (0, 1, 2, 3, 4), (1, 2, 3))
    x, target = kornia_calls.logits(draw, size), kornia_calls.binary_values(draw, options, size)
    for name in ("weight", "pos_weight"):
        if draw.of(True, False):
            options[name] = kornia_calls.weights(draw, size[1])
    return Call(options, x, (target,))


DROPS = {
    **kornia_calls.drops(
        (compat.focal_loss, compat.FocalLoss),
        (kornia.losses.focal_loss, kornia.losses.FocalLoss),
        focal,
        200,
        images=False,
    ),
    **kornia_calls.drops(
        (compat.binary_focal_loss_with_logits, compat.BinaryFocalLossWithLogits),
        (kornia.losses.binary_focal_loss_with_logits, kornia.losses.BinaryFocalLossWithLogits),
        binary_focal,
        50,
        images=False,
    ),
}


@by_block
@pytest.mark.parametrize("name", DROPS)
def test_equals_kornia(name: str, block: int) -> None:
    check_block(DROPS[name], block)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_targets_outside_of_0_and_1(reduction: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5)
    for target in (torch.rand(2, 3, 4, 5) * 1.2, torch.randint(-1, 3, (2, 3, 4, 5))):
        given: dict[str, Any] = {"target": target, "reduction": reduction}
        ours, theirs = (
            gradient(partial(package.binary_focal_loss_with_logits, **given), x)
            for package in (compat, kornia.losses)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_soft_target_gets_a_gradient() -> None:
    torch.manual_seed(0)
    x, target = torch.randn(2, 3, 4, 5).double(), torch.rand(2, 3, 4, 5).double()
    for reduction in ("mean", "none"):
        ours, theirs = (
            gradient(partial(package.binary_focal_loss_with_logits, x, reduction=reduction), target)
            for package in (compat, kornia.losses)
        )
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("gamma", [-0.5, torch.tensor(1.5)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gammas_that_are_not_numbers_from_0_on(gamma: Any, reduction: str) -> None:  # noqa: ANN401
    torch.manual_seed(0)
    x, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    options: dict[str, Any] = {"alpha": 0.25, "gamma": gamma, "reduction": reduction}
    for name, target in (("FocalLoss", labels), ("BinaryFocalLossWithLogits", x.sigmoid().round())):
        ours, theirs = (
            gradient(partial(getattr(package, name)(**options), target=target), x)
            for package in (compat, kornia.losses)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_alphas_that_are_tensors() -> None:
    torch.manual_seed(0)
    x, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    options: dict[str, Any] = {"alpha": torch.tensor(0.25), "reduction": "mean"}
    for name, target in (("FocalLoss", labels), ("BinaryFocalLossWithLogits", x.sigmoid().round())):
        ours, theirs = (
            gradient(partial(getattr(package, name)(**options), target=target), x)
            for package in (compat, kornia.losses)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_saturated_probabilities_have_no_nan() -> None:
    x, target = torch.full((1, 2, 3, 3), 200.0), torch.zeros(1, 3, 3, dtype=torch.int64)
    x[:, 1] = -200
    for reduction in ("mean", "none"):
        value, grad = gradient(
            partial(compat.focal_loss, target=target, alpha=0.5, gamma=0.5, reduction=reduction), x
        )
        assert value.abs().sum() == grad.abs().sum() == 0


def test_nan_of_ignored_pixels_does_not_count() -> None:
    torch.manual_seed(0)
    x, target = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4))
    x[:, :, 0], target[:, 0] = torch.nan, -100
    for reduction in ("mean", "none"):
        ours, theirs = (
            gradient(partial(package.FocalLoss(0.25, reduction=reduction), target=target), x)
            for package in (compat, kornia.losses)
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        assert not ours[1].isnan().any()


def test_options_that_are_changed_later_count() -> None:
    torch.manual_seed(0)
    x, target = torch.randn(2, 3, 4, 5), torch.randint(0, 2, (2, 4, 5))
    changes: dict[str, Any] = {
        **{"reduction": "mean", "alpha": 0.75, "gamma": 1.0, "weight": torch.rand(3)},
        **{"pos_weight": torch.rand(3), "ignore_index": 1},
    }
    for name in ("FocalLoss", "BinaryFocalLossWithLogits"):
        ours, theirs = (getattr(package, name)(0.25) for package in (compat, kornia.losses))
        labels = target if name == "FocalLoss" else (x > 0.5).long()
        for attribute, value in changes.items():
            if hasattr(theirs, attribute):
                setattr(ours, attribute, value)
                setattr(theirs, attribute, value)
                expected = theirs(x, labels)
                torch.testing.assert_close(ours(x, labels), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.torch_compile
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_compiles_with_targets_of_any_dtype(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, target = torch.randn(2, 3, 4, 5), torch.randint(0, 2, (2, 3, 4, 5)).to(dtype)
    loss = compat.BinaryFocalLossWithLogits(0.25, reduction="mean")
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = gradient(lambda x: compiled(x, target), x)
    torch._dynamo.reset()
    torch.testing.assert_close(found, gradient(lambda x: loss(x, target), x))
