"""clDice against MONAI's, equal voxels included; what losses over neighbours promise besides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import monai.losses
import pytest
import torch
from torch import Tensor, nn

import segloss_fast
from tests.helpers import IMPLS, gradient, peak_allocation, relative_l2
from tests.losses.test_peers import TOLERANCE, Draw
from tests.suite.tiers import few

pytestmark = pytest.mark.peers

by_impl = pytest.mark.parametrize("impl", IMPLS)
PAIRS = [
    (segloss_fast.SoftClDiceLoss, monai.losses.SoftclDiceLoss),
    (segloss_fast.SoftDiceClDiceLoss, monai.losses.SoftDiceclDiceLoss),
]


def modules(pair: Any, draw: Draw, impl: str) -> tuple[nn.Module, nn.Module]:  # noqa: ANN401
    """Return ours and MONAI's with the same random options."""
    smooth = draw.random.choice([{}, {"smooth_nr": 0.5, "smooth_dr": 2.0}])
    own = (
        {} if pair[0] is segloss_fast.SoftClDiceLoss else {"alpha": draw.random.choice([0.5, 0.2])}
    )
    common: dict[str, Any] = {
        "include_background": draw.common["include_background"],
        **smooth,
        **own,
    }
    common["reduction"] = draw.reduction
    iterations = draw.random.choice([0, 1, 3, 10])
    activation = "sigmoid" if draw.sigmoid else "softmax"
    ours = pair[0](activation=activation, iterations=iterations, impl=impl, **common)
    theirs = pair[1](iter_=iterations, to_onehot_y=draw.classes > 1, **{activation: True}, **common)
    return ours, theirs


def on(loss: nn.Module, target: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the loss as a function of the input."""
    return lambda x: loss(x, target)


@by_impl
@pytest.mark.parametrize("seed", few(range(24), test=3))
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[1].__name__)
def test_equals_monai(impl: str, seed: int, pair: Any) -> None:  # noqa: ANN401
    draw = Draw(seed)
    x = draw.x.double()
    if draw.random.random() < 0.4:  # saturated: most probabilities are exactly 0 or 1
        x = 200 * x.sign()
    ours, theirs = modules(pair, draw, impl)
    value, grad = gradient(on(ours, draw.labels), x)
    true_value, true_grad = gradient(on(theirs, draw.labels.double()), x)
    assert relative_l2(value, true_value) < 1e-12
    if true_grad.norm() > 1e-9:
        assert relative_l2(grad, true_grad) < 1e-10


@by_impl
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[1].__name__)
def test_equals_monai_where_probabilities_are_equal(impl: str, pair: Any) -> None:  # noqa: ANN401
    for seed in range(6):
        draw = Draw(seed)
        draw.classes, shape = 3, (2, 3, 9, 8, 7)
        torch.manual_seed(seed)
        x = torch.randint(0, 3, shape).double()
        draw.labels = torch.randint(0, 3, (2, 1, *shape[2:]))
        draw.sigmoid = True
        ours, theirs = modules(pair, draw, impl)
        value, grad = gradient(on(ours, draw.labels), x)
        true_value, true_grad = gradient(on(theirs, draw.labels.double()), x)
        assert relative_l2(value, true_value) < 1e-12
        assert relative_l2(grad, true_grad) < 1e-10


@by_impl
def test_dense_targets_equal_monai(impl: str) -> None:
    torch.manual_seed(0)
    x, t = torch.randn(2, 3, 9, 8, 7), torch.rand(2, 3, 9, 8, 7)
    theirs = monai.losses.SoftclDiceLoss(sigmoid=True)
    for target in (t, t.round(), t.round().to(torch.uint8), t.round() != 0):
        ours = segloss_fast.SoftClDiceLoss(activation="sigmoid", impl=impl)
        value, grad = gradient(on(ours, target), x)
        true_value, true_grad = gradient(on(theirs, target.float()), x)
        assert relative_l2(value, true_value) < TOLERANCE
        assert relative_l2(grad, true_grad) < TOLERANCE


def test_a_perfect_prediction_has_the_loss_of_monai() -> None:
    labels = torch.zeros(1, 12, 12, dtype=torch.int64)
    labels[:, 4:8, 1:11] = 1
    x = torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).float()
    loss = segloss_fast.SoftClDiceLoss(activation="probabilities")(x, labels)
    assert abs(loss.item() - 5e-5) < 1e-7


def test_ignored_voxels_are_outside_of_windows_and_skeletons() -> None:
    torch.manual_seed(0)
    x, labels = torch.randn(1, 3, 9, 10), torch.randint(0, 3, (1, 9, 10))
    ignored = torch.rand(1, 9, 10) < 0.3
    for loss in (segloss_fast.SoftClDiceLoss, segloss_fast.StructuralSimilarityLoss):
        module = loss(ignore_index=7)
        first = module(x, labels.masked_fill(ignored, 7))
        other = torch.where(ignored[:, None], torch.randn_like(x), x)
        assert module(other, labels.masked_fill(ignored, 7)) == first
        # What an outside voxel of probability 0 would give, without weight.
        p = x.softmax(1).masked_fill(ignored[:, None], 0)
        t = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).masked_fill(ignored[:, None], 0)
        dense = loss(activation="probabilities")
        second = dense(p, t.float(), (~ignored[:, None]).float())
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "limit"),
    [
        (segloss_fast.SoftClDiceLoss, 24),
        (segloss_fast.SoftDiceClDiceLoss, 24),
        (segloss_fast.StructuralSimilarityLoss, 32),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_memory_per_logit(loss: Any, limit: int) -> None:  # noqa: ANN401
    if "native" not in IMPLS:
        pytest.skip("needs the native module")
    torch.manual_seed(0)
    x = torch.randn(1, 4, 48, 48, 48, requires_grad=True)
    labels = torch.randint(0, 4, (1, 48, 48, 48), dtype=torch.uint8)
    module = loss()

    def step() -> Tensor:
        x.grad = None
        value: Tensor = module(x, labels)
        value.backward()
        return value

    gradient_bytes = 4
    assert peak_allocation(step) / x.numel() < limit + gradient_bytes
