"""Drop-ins whose last call is kept: whatever changes before the next one, it is as the peer's."""

from __future__ import annotations

from typing import Any

import monai.losses
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import binary_cross_entropy_with_logits

from segloss_fast._native import _C
from segloss_fast.compat import monai as ours
from segloss_fast.compat.monai.compound import DiceCELoss
from segloss_fast.compat.smp import SoftBCEWithLogitsLoss
from tests.helpers import assert_close, forget_plans, has_plan

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(_C is None, reason="the native module is not built"),
]
WEIGHT = [1.0, 2.0, 0.5]
Pair = tuple[Any, Any]


def made() -> Pair:
    options: Any = {"softmax": True, "to_onehot_y": True}
    ours, theirs = (of(**options) for of in (DiceCELoss, monai.losses.DiceCELoss))
    return ours, theirs


def problem(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 6, 5, generator=generator).requires_grad_()
    return x, torch.randint(0, 3, (2, 1, 6, 5), generator=generator)


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Pair:
    """A drop-in after two calls, and its peer."""
    forget_plans(monkeypatch)
    both = made()
    for _ in range(2):
        compare(both, *problem())
    assert has_plan(both[0](*problem()))
    return both


def compare(pair: Pair, x: Tensor, y: Tensor, rounding: float = 1e-6) -> Tensor:
    value, true = (loss(x, y) for loss in pair)
    assert_close(value.detach(), true.detach(), rounding)
    (grad,), (true_grad,) = (torch.autograd.grad(of, x) for of in (value, true))
    assert_close(grad, true_grad, rounding)
    found: Tensor = value.detach()
    return found


def test_attributes(pair: Pair) -> None:
    x, y = problem()
    seen = [compare(pair, x, y)]
    for path, name, value in (
        ("", "lambda_ce", 0.0),
        ("", "lambda_ce", 0.5),
        ("dice", "smooth_nr", 3.0),
        ("dice", "batch", True),
        ("dice", "jaccard", True),
        ("dice", "include_background", False),
        ("dice", "squared_pred", True),
    ):
        for loss in pair:
            setattr(loss.get_submodule(path), name, value)
        for _ in range(2):
            seen.append(compare(pair, x, y))
        assert all(seen[-1] != before for before in seen[:-2]), name
        assert has_plan(pair[0](x, y)), name


def test_weights_that_change(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_plans(monkeypatch)
    x, y = torch.randn(2, 3, 6, 5).requires_grad_(), torch.rand(2, 3, 6, 5)
    ours = SoftBCEWithLogitsLoss(pos_weight=torch.tensor(WEIGHT).view(3, 1, 1))

    def theirs(x: Tensor, y: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(x, y, pos_weight=ours.pos_weight)

    pair = ours, theirs
    assert ours.pos_weight is not None
    compare(pair, x, y)
    assert has_plan(ours(x, y))
    ours.pos_weight.mul_(torch.tensor([3.0, 1.0, 0.0]).view(3, 1, 1))
    compare(pair, x, y)
    ours.pos_weight = ours.pos_weight.flip(0).double()
    compare(pair, x, y)
    ours.pos_weight = torch.tensor(2.5)
    compare(pair, x, y)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_what_records_and_transforms(pair: Pair) -> None:
    ours, theirs = pair
    x, y = problem()
    other = 2 * x.detach()
    true = theirs(other, y)
    assert_close(make_fx(lambda x: ours(x, y))(x.detach())(other), true, 1e-6)
    assert_close(torch.jit.trace(lambda x: ours(x, y), x.detach())(other), true, 1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(ours(x, y).detach(), theirs(x, y).detach(), 2e-2)
    with torch.no_grad():
        assert not ours(x, y).requires_grad
    value = ours(x, y)
    scales = torch.tensor([1.0, -2.0])
    (true_grad,) = torch.autograd.grad(theirs(x, y), x)
    (many,) = torch.autograd.grad(value, x, scales, is_grads_batched=True)
    assert_close(many, scales.view(2, 1, 1, 1, 1) * true_grad, 1e-6)
    grad = torch.func.grad(lambda x: ours(x, y))(x.detach())
    assert_close(grad, true_grad, 1e-6)
    compare(pair, *problem())


def test_other_tensors(pair: Pair) -> None:
    x, y = problem(1)
    compare(pair, x, y)
    compare(pair, x, y.float())
    wide = x.detach().double().requires_grad_()
    for loss in pair:
        loss.double()
    compare(pair, wide, y)
    with pytest.raises(ValueError, match=r"got 60 other values, the first of which is"):
        pair[0](wide, y + 3)
    part = wide.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()
    compare(pair, part, y)


def test_a_matrix_that_changes() -> None:
    """What is made of it is kept; it may share the memory of an array."""
    x, y = problem()
    matrix = 1 - np.eye(3, dtype=np.float32)
    pair: Any = tuple(of.GeneralizedWassersteinDiceLoss(matrix) for of in (ours, monai.losses))
    with torch.inference_mode():
        first = pair[0](x, y[:, 0])
    seen = [compare(pair, x, y[:, 0], 1e-5)]
    assert_close(first.clone(), seen[0], 0)
    matrix[0, 1] = 0.25
    seen.append(compare(pair, x, y[:, 0], 1e-5))
    for loss in pair:
        loss.smooth_nr = 7.0
    seen.append(compare(pair, x, y[:, 0], 1e-5))
    for loss in pair:
        loss.m = loss.m.flip(0)
    seen.append(compare(pair, x, y[:, 0], 1e-5))
    assert len(set(map(float, seen))) == 4
