"""The boundary losses against MONAI's at matching options, empty and full masks included."""

from __future__ import annotations

from collections.abc import Callable

import monai.losses
import pytest
from torch import nn

import segloss_fast
from tests.helpers import IMPLS, gradient, relative_l2
from tests.losses.test_peers import TOLERANCE, Draw
from tests.suite.tiers import few

pytestmark = pytest.mark.peers

by_impl = pytest.mark.parametrize("impl", IMPLS)
by_seed = pytest.mark.parametrize("seed", few(range(24), test=3))
Pair = tuple[Callable[..., nn.Module], Callable[..., nn.Module]]
PAIRS: list[Pair] = [
    (segloss_fast.HausdorffDTLoss, monai.losses.HausdorffDTLoss),
    (segloss_fast.LogHausdorffDTLoss, monai.losses.LogHausdorffDTLoss),
    (segloss_fast.BoundaryLoss, monai.losses.BoundaryLoss),
]


@by_impl
@by_seed
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[1].__name__)
def test_equals_monai(impl: str, seed: int, pair: Pair) -> None:
    draw = Draw(seed)
    reduction = draw.random.choice(["mean", "sum", "none"])
    keywords = {
        "include_background": draw.common["include_background"],
        "batch": draw.common["batch"],
        "reduction": reduction,
    }
    own = {} if pair[0] is segloss_fast.BoundaryLoss else {"alpha": draw.random.choice([2.0, 1.5])}
    fill = draw.random.choice([None, None, 0, 1])
    if fill is not None:  # the first item has no boundary
        draw.labels[0] = fill
    activation = "sigmoid" if draw.sigmoid else "softmax"
    ours = pair[0](activation=activation, impl=impl, **own, **keywords)
    theirs = pair[1](to_onehot_y=draw.classes > 1, **{activation: True}, **own, **keywords)
    # Integer targets make MONAI truncate the distances.
    value, grad = gradient(lambda x: ours(x, draw.labels), draw.x)
    true_value, true_grad = gradient(lambda x: theirs(x, draw.labels.float()), draw.x)
    assert value.numel() == true_value.numel()
    assert relative_l2(value.flatten(), true_value.flatten()) < TOLERANCE
    if true_grad.norm() > 1e-6 * draw.x.numel() ** 0.5:
        assert relative_l2(grad, true_grad) < TOLERANCE
