"""The formulas of sums against MONAI's and segmentation-models-pytorch's at matching options."""

from __future__ import annotations

from typing import Any

import monai.losses
import pytest
import torch
from torch import Tensor

import segloss_fast
from tests.helpers import gradient, relative_l2
from tests.losses.test_peers import TOLERANCE, Draw, by_impl, by_seed, check
from tests.peers import smp_losses
from tests.suite.tiers import few

pytestmark = pytest.mark.peers
# MONAI adds its smoothing to sums that shrink with the volume. Not 0, or no class is 0 / 0 there.
ALMOST_UNSMOOTHED = {"smooth_nr": 0.0, "smooth_dr": 1e-30}


@by_impl
@by_seed
def test_generalized_dice(impl: str, seed: int) -> None:
    draw = Draw(seed)
    draw.common.update(ALMOST_UNSMOOTHED)
    weighting = draw.random.choice(["square", "simple", "uniform"])
    check(
        draw,
        segloss_fast.GeneralizedDiceLoss(weighting=weighting, impl=impl, **draw.ours()),
        monai.losses.GeneralizedDiceLoss(w_type=weighting, **draw.monai()),
    )


@by_impl
@by_seed
def test_generalized_dice_focal(impl: str, seed: int) -> None:
    draw = Draw(seed)
    draw.common.update(ALMOST_UNSMOOTHED)
    draw.reduction = "mean"
    own: dict[str, Any] = {
        "lambda_gdl": draw.random.choice([1.0, 0.3]),
        "lambda_focal": draw.random.choice([1.0, 2.0]),
        "gamma": draw.random.choice([2.0, 1.5, 0.5]),
    }
    weighting = draw.random.choice(["square", "simple", "uniform"])
    check(
        draw,
        segloss_fast.GeneralizedDiceFocalLoss(
            ce_activation="sigmoid", weighting=weighting, impl=impl, **own, **draw.ours()
        ),
        monai.losses.GeneralizedDiceFocalLoss(w_type=weighting, **own, **draw.monai()),
    )


@by_impl
@by_seed
def test_mcc(impl: str, seed: int) -> None:
    draw = Draw(seed)
    check(
        draw,
        segloss_fast.MCCLoss(impl=impl, **draw.ours()),
        monai.losses.MCCLoss(**draw.monai()),
    )


@by_impl
@by_seed
def test_unified_focal(impl: str, seed: int) -> None:
    draw = Draw(seed)
    own: dict[str, Any] = {
        "gamma": draw.random.choice([0.0, 0.5, 0.75]),
        "delta": draw.random.choice([0.6, 0.7]),
    }
    weight = draw.random.choice([0.0, 0.5, 1.0])
    size = [draw.random.choice([2, 5, 13]) for _ in range(draw.random.choice([2, 3]))]
    # Its probabilities are clamped at 1e-7: logits that stay away from that.
    x = torch.randn(2, 2, *size)
    labels = torch.randint(0, 2, (2, 1, *size))
    theirs = monai.losses.AsymmetricUnifiedFocalLoss(to_onehot_y=True, weight=weight, **own)
    true_value, true_grad = gradient(lambda x: theirs(x.softmax(1), labels), x)
    # MONAI's mean of the focal part runs over the two classes too.
    scale = weight / 2 + 1 - weight
    ours = segloss_fast.UnifiedFocalLoss(
        weight=weight / 2 / scale, smooth_nr=1e-7, smooth_dr=1e-7, impl=impl, **own
    )
    value, grad = gradient(lambda x: scale * ours(x, labels), x)
    assert abs(value - true_value) < TOLERANCE * abs(true_value)
    assert relative_l2(grad, true_grad) < TOLERANCE


@by_impl
@pytest.mark.parametrize("seed", few(range(8), test=2))
def test_deep_supervision(impl: str, seed: int) -> None:
    draw = Draw(seed)
    sides = (16, 8, 4)
    xs = [torch.randn(2, 3, side, side, side // 2) for side in sides]
    labels = torch.randint(0, 3, (2, 1, 16, 16, 8))
    weights = draw.random.choice([[1.0, 0.5, 0.25], [0.2, 0.7, 0.1]])
    ours = segloss_fast.DeepSupervisionLoss(segloss_fast.DiceCELoss(impl=impl), weights)
    theirs = monai.losses.DeepSupervisionLoss(
        monai.losses.DiceCELoss(softmax=True, to_onehot_y=True), weights=weights
    )
    values, grads = [], []
    for loss, target in ((ours, labels), (theirs, labels.float())):
        leaves = [x.clone().requires_grad_() for x in xs]
        value = loss(leaves, target)
        value.backward()
        values.append(value.detach())
        grads.append([leaf.grad for leaf in leaves])
    assert abs(values[0] - values[1]) < TOLERANCE * values[1]
    for grad, true_grad in zip(*grads, strict=True):
        assert relative_l2(grad, true_grad) < TOLERANCE


def binary(seed: int) -> tuple[Tensor, Tensor]:
    """Return logits and a target for one class."""
    torch.manual_seed(seed)
    x = 2 * torch.randn(2, 1, 24, 31)
    return x, (torch.rand(x.shape) < 0.3).float()


@by_impl
@pytest.mark.parametrize("seed", few(range(8), test=2))
@pytest.mark.parametrize("name", ["tversky", "mcc", "focal"])
def test_segmentation_models(impl: str, seed: int, name: str) -> None:
    smp = smp_losses(name)  # the modules are called so
    x, target = binary(seed)
    common: dict[str, Any] = {"batch": True, "smooth_nr": 0.0, "smooth_dr": 0.0, "impl": impl}
    exponent = (0.75, 1.0, 1.5)[seed % 3]
    sides: dict[str, Any] = {
        "tversky": (
            segloss_fast.FocalTverskyLoss(
                alpha=0.3, beta=0.7, gamma=1 / exponent, activation="sigmoid", **common
            ),
            lambda *pair: smp.TverskyLoss("binary", alpha=0.3, beta=0.7, gamma=exponent)(*pair),
        ),
        "mcc": (
            segloss_fast.MCCLoss(activation="sigmoid", **common),
            lambda x, t: smp.MCCLoss(eps=0)(x.sigmoid(), t),
        ),
        "focal": (
            segloss_fast.FocalLoss(gamma=exponent, alpha=0.25, activation="sigmoid", impl=impl),
            lambda *pair: smp.FocalLoss("binary", gamma=exponent, alpha=0.25)(*pair),
        ),
    }
    ours, theirs = sides[name]
    value, grad = gradient(lambda x: ours(x, target), x)
    true_value, true_grad = gradient(lambda x: theirs(x, target), x)
    assert abs(value - true_value) < TOLERANCE * abs(true_value)
    assert relative_l2(grad, true_grad) < TOLERANCE
