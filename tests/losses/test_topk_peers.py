"""TopK and generalised Wasserstein Dice against nnU-Net's and MONAI's at matching options."""

from __future__ import annotations

from typing import Any

import monai.losses
import pytest
import torch
from torch import Tensor

import segloss_fast
from tests.helpers import IMPLS, gradient, relative_l2
from tests.losses.test_peers import TOLERANCE, Draw
from tests.suite.tiers import few

pytestmark = pytest.mark.peers

by_impl = pytest.mark.parametrize("impl", IMPLS)
by_seed = pytest.mark.parametrize("seed", few(range(30), test=4))


class NnUNetTopKLoss(torch.nn.CrossEntropyLoss):
    """What nnU-Net 2.8.1 computes: the mean of the k % largest of all voxels, ignored ones too."""

    def __init__(self, k: float, **keywords: Any) -> None:  # noqa: ANN401
        super().__init__(reduction="none", **keywords)
        self.k = k

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        loss = super().forward(input, target[:, 0].long()).flatten()
        return torch.topk(loss, int(loss.numel() * self.k / 100), sorted=False).values.mean()


@by_impl
@by_seed
def test_topk_equals_nnunet(impl: str, seed: int) -> None:
    draw = Draw(seed)
    classes = max(draw.classes, 2)
    shape = (draw.x.shape[0], classes, *draw.x.shape[2:])
    x, labels = 2 * torch.randn(shape), torch.randint(0, classes, (shape[0], 1, *shape[2:]))
    k = draw.random.choice([1.0, 10.0, 33.0, 75.0, 100.0])
    if int(labels.numel() * k / 100) == 0:
        k = 100.0  # nnU-Net's mean of no voxel is NaN
    weight = draw.random.choice([None, torch.rand(classes)])
    ours = segloss_fast.TopKLoss(k=k, class_weight=weight, impl=impl)
    theirs = NnUNetTopKLoss(k, weight=weight)
    value, grad = gradient(lambda x: ours(x, labels.to(draw.dtype)), x)
    true_value, true_grad = gradient(lambda x: theirs(x, labels), x)
    assert abs(value - true_value) <= TOLERANCE * true_value.abs()
    assert relative_l2(grad, true_grad) < TOLERANCE


@by_impl
def test_topk_does_not_count_ignored_voxels_as_nnunet_does(impl: str) -> None:
    torch.manual_seed(0)
    x, labels = torch.randn(2, 3, 10, 10), torch.randint(0, 3, (2, 1, 10, 10))
    labels[..., :5, :] = 255
    ours = segloss_fast.TopKLoss(k=80, ignore_index=255, impl=impl)(x, labels)
    # Of 200 voxels 100 are ignored; nnU-Net's 160 hold all of the others and 60 of loss 0.
    theirs = NnUNetTopKLoss(80, ignore_index=255)(x, labels)
    every = NnUNetTopKLoss(80)(x[..., 5:, :], labels[..., 5:, :])
    torch.testing.assert_close(ours, every)
    assert theirs < 0.7 * ours


@by_impl
@by_seed
def test_dice_topk_equals_nnunet(impl: str, seed: int) -> None:
    draw = Draw(seed)
    torch.manual_seed(seed)
    x, labels = 2 * torch.randn(2, 4, 13, 9, 5), torch.randint(0, 4, (2, 1, 13, 9, 5))
    batch, background = draw.random.random() < 0.5, draw.random.random() < 0.5
    ours = segloss_fast.DiceTopKLoss(batch=batch, include_background=background, impl=impl)
    one_hot = torch.nn.functional.one_hot(labels[:, 0], 4).movedim(-1, 1)

    def theirs(x: Tensor) -> Tensor:
        axes = (0, 2, 3, 4) if batch else (2, 3, 4)
        first = 0 if background else 1
        p, t = x.softmax(1), one_hot
        dice = (2 * (p * t).sum(axes) + 1e-5) / ((p + t).sum(axes) + 1e-5)
        dice = dice[first:] if batch else dice[:, first:]
        topk: Tensor = NnUNetTopKLoss(10)(x, labels)
        return 1 - dice.mean() + topk

    value, grad = gradient(lambda x: ours(x, labels), x)
    true_value, true_grad = gradient(theirs, x)
    assert abs(value - true_value) <= TOLERANCE * true_value.abs()
    assert relative_l2(grad, true_grad) < TOLERANCE


@by_impl
@by_seed
def test_wasserstein_equals_monai(impl: str, seed: int) -> None:
    draw = Draw(seed)
    classes = max(draw.classes, 2)
    shape = (draw.x.shape[0], classes, *draw.x.shape[2:])
    torch.manual_seed(seed)
    x = draw.random.choice([0.5, 2.0, 8.0]) * torch.randn(shape)
    present = draw.random.choice([classes, 1, max(classes - 1, 1)])
    labels = torch.randint(0, present, (shape[0], 1, *shape[2:]))
    matrix = torch.rand(classes, classes) * draw.random.choice([1.0, 5.0])
    matrix.fill_diagonal_(0)
    weighting = draw.random.choice(["default", "GDL"])
    smooth: dict[str, Any] = {name: draw.common[name] for name in ("smooth_nr", "smooth_dr")}
    reduction = draw.random.choice(["mean", "sum", "none"])
    ours = segloss_fast.GeneralizedWassersteinDiceLoss(
        distance_matrix=matrix, weighting=weighting, reduction=reduction, impl=impl, **smooth
    )
    theirs = monai.losses.GeneralizedWassersteinDiceLoss(
        matrix.double(), weighting_mode=weighting, reduction=reduction, **smooth
    )
    # In float64: in float32, both lose digits where the prediction is certain.
    value, grad = gradient(lambda x: ours(x, labels.to(draw.dtype)), x.double())
    true_value, true_grad = gradient(lambda x: theirs(x, labels), x.double())
    value = value.flatten() if reduction == "none" else value
    assert value.shape == true_value.shape
    assert ((value - true_value).abs() <= TOLERANCE * true_value.abs().clamp_min(1e-2)).all()
    if true_grad.norm() > 1e-6 * x.numel() ** 0.5:
        assert relative_l2(grad, true_grad) < TOLERANCE
