"""The losses against MONAI's and torch's at matching options: random shapes, labels and options."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import monai.losses
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import segloss_fast
from tests.helpers import IMPLS, gradient, relative_l2, relative_max
from tests.suite.tiers import few

pytestmark = pytest.mark.peers

TOLERANCE = 1e-5
CASES = 40
by_impl = pytest.mark.parametrize("impl", IMPLS)
by_seed = pytest.mark.parametrize("seed", few(range(CASES), test=4))


class Draw:
    """One random problem and set of options."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        torch.manual_seed(seed)
        rank = self.random.choice([2, 3])
        self.classes = self.random.choice([1, 2, 3, 4, 14])
        size = [self.random.choice([1, 2, 5, 8, 13, 21]) for _ in range(rank)]
        batch = self.random.choice([1, 2, 3])
        self.x = self.random.choice([0.5, 2.0, 8.0]) * torch.randn(batch, self.classes, *size)
        self.labels = torch.randint(0, max(self.classes, 2), (batch, 1, *size))
        self.sigmoid = self.classes == 1 or self.random.random() < 0.3
        self.dtype = self.random.choice([torch.uint8, torch.int16, torch.int64, torch.float32])
        self.reduction = self.random.choice(["mean", "sum"])
        self.common = {
            "include_background": self.classes == 1 or self.random.random() < 0.6,
            "batch": self.random.random() < 0.5,
            "smooth_nr": self.random.choice([0.0, 1e-5, 1.0]),
            "smooth_dr": self.random.choice([1e-5, 1.0]),
        }

    def ours(self) -> dict[str, Any]:
        """Return our keywords."""
        activation = "sigmoid" if self.sigmoid else "softmax"
        return {**self.common, "activation": activation, "reduction": self.reduction}

    def monai(self) -> dict[str, Any]:
        """Return MONAI's."""
        return {
            **self.common,
            "sigmoid": self.sigmoid,
            "softmax": not self.sigmoid,
            "to_onehot_y": self.classes > 1,
            "reduction": self.reduction,
        }


def check(draw: Draw, ours: Callable[[Tensor, Tensor], Tensor], theirs: nn.Module) -> None:
    """Assert equal values and gradients."""
    labels = draw.labels.float() if draw.classes == 1 else draw.labels
    value, grad = gradient(lambda x: ours(x, draw.labels.to(draw.dtype)), draw.x)
    true_value, true_grad = gradient(lambda x: theirs(x, labels), draw.x)
    assert abs(value - true_value) <= TOLERANCE * max(true_value.abs().item(), 1e-2)
    # Where the gradient vanishes, as for saturated logits, MONAI's is its own rounding.
    if true_grad.norm() > 1e-6 * draw.x.numel() ** 0.5:
        assert relative_l2(grad, true_grad) < TOLERANCE
        assert relative_max(grad, true_grad) < TOLERANCE


@by_impl
@by_seed
def test_dice(impl: str, seed: int) -> None:
    draw = Draw(seed)
    squared = draw.random.random() < 0.5
    check(
        draw,
        segloss_fast.DiceLoss(squared=squared, impl=impl, **draw.ours()),
        monai.losses.DiceLoss(squared_pred=squared, **draw.monai()),
    )


@by_impl
@by_seed
def test_jaccard(impl: str, seed: int) -> None:
    draw = Draw(seed)
    keywords = draw.ours()
    keywords["smooth_nr"] /= 2  # MONAI's formula is twice ours, above and below
    keywords["smooth_dr"] /= 2
    check(
        draw,
        segloss_fast.JaccardLoss(impl=impl, **keywords),
        monai.losses.DiceLoss(jaccard=True, **draw.monai()),
    )


@by_impl
@by_seed
def test_tversky(impl: str, seed: int) -> None:
    draw = Draw(seed)
    alpha, beta = draw.random.choice([(0.5, 0.5), (0.3, 0.7), (1.0, 1.0)])
    check(
        draw,
        segloss_fast.TverskyLoss(alpha=alpha, beta=beta, impl=impl, **draw.ours()),
        monai.losses.TverskyLoss(alpha=alpha, beta=beta, **draw.monai()),
    )


@by_impl
@by_seed
def test_dice_ce(impl: str, seed: int) -> None:
    draw = Draw(seed)
    draw.reduction = "mean"
    own: dict[str, Any] = {
        "lambda_dice": draw.random.choice([1.0, 0.3]),
        "lambda_ce": draw.random.choice([1.0, 2.0]),
    }
    smoothing: dict[str, Any] = (
        {} if draw.classes == 1 else {"label_smoothing": draw.random.choice([0.0, 0.1])}
    )
    # MONAI's cross-entropy is that of the softmax whatever the Dice, except for one class.
    ce_activation = "softmax" if draw.classes > 1 else "sigmoid"
    check(
        draw,
        segloss_fast.DiceCELoss(
            ce_activation=ce_activation, impl=impl, **own, **smoothing, **draw.ours()
        ),
        monai.losses.DiceCELoss(**own, **smoothing, **draw.monai()),
    )


@by_impl
@by_seed
def test_dice_focal(impl: str, seed: int) -> None:
    draw = Draw(seed)
    draw.reduction = "mean"
    own: dict[str, Any] = {
        "lambda_dice": draw.random.choice([1.0, 0.3]),
        "lambda_focal": draw.random.choice([1.0, 2.0]),
        "gamma": draw.random.choice([2.0, 1.5, 0.5]),
        "alpha": draw.random.choice([None, 0.25]),
    }
    check(
        draw,
        segloss_fast.DiceFocalLoss(ce_activation="sigmoid", impl=impl, **own, **draw.ours()),
        monai.losses.DiceFocalLoss(**own, **draw.monai()),
    )


@by_impl
@by_seed
def test_focal(impl: str, seed: int) -> None:
    draw = Draw(seed)
    gamma, alpha = draw.random.choice([2.0, 1.0, 0.5]), draw.random.choice([None, 0.25])
    background = draw.common["include_background"]
    own: dict[str, Any] = {"gamma": gamma, "alpha": alpha, "include_background": background}
    activation = "sigmoid" if draw.sigmoid or not background else "softmax"
    # MONAI divides the softmax focal by B C V, we by B V.
    factor = draw.classes if activation == "softmax" else 1
    theirs = monai.losses.FocalLoss(
        use_softmax=activation == "softmax", to_onehot_y=draw.classes > 1, **own
    )
    ours = segloss_fast.FocalLoss(activation=activation, impl=impl, **own)
    check(draw, lambda x, t: ours(x, t) / factor, theirs)


@by_impl
@by_seed
def test_cross_entropy_is_torch_s(impl: str, seed: int) -> None:
    draw = Draw(seed)
    classes = max(draw.classes, 2)
    x = torch.randn(2, classes, 5, 6)
    labels = torch.randint(0, classes, (2, 5, 6))
    labels[0, :2] = 255
    weight = (torch.rand(classes) + 0.1) if draw.random.random() < 0.5 else None
    smoothing = draw.random.choice([0.0, 0.1])
    reduction = draw.reduction
    ours = segloss_fast.CrossEntropyLoss(
        class_weight=weight,
        label_smoothing=smoothing,
        ignore_index=255,
        reduction=reduction,
        impl=impl,
    )
    value, grad = gradient(lambda x: ours(x, labels), x)
    true_value, true_grad = gradient(
        lambda x: functional.cross_entropy(
            x,
            labels,
            weight,
            ignore_index=255,
            label_smoothing=smoothing,
            reduction=reduction,
        ),
        x,
    )
    assert abs(value - true_value) < TOLERANCE * abs(true_value)
    assert relative_l2(grad, true_grad) < TOLERANCE
    assert relative_max(grad, true_grad) < TOLERANCE


@by_impl
@by_seed
def test_binary_cross_entropy_is_torch_s(impl: str, seed: int) -> None:
    draw = Draw(seed)
    target = torch.rand_like(draw.x).round()
    weight = torch.rand_like(draw.x)
    pos_weight = torch.rand(draw.classes) * 3
    ours = segloss_fast.CrossEntropyLoss(
        activation="sigmoid", pos_weight=pos_weight, reduction=draw.reduction, impl=impl
    )
    shape = (1, -1, *[1] * (draw.x.dim() - 2))
    value, grad = gradient(lambda x: ours(x, target, weight), draw.x)
    true_value, true_grad = gradient(
        lambda x: (
            functional.binary_cross_entropy_with_logits(
                x, target, weight, pos_weight=pos_weight.view(shape), reduction="sum"
            )
            / (weight.sum() if draw.reduction == "mean" else 1)
        ),
        draw.x,
    )
    assert abs(value - true_value) < TOLERANCE * max(true_value.abs().item(), 1e-2)
    assert relative_l2(grad, true_grad) < TOLERANCE
    assert relative_max(grad, true_grad) < TOLERANCE
