"""Derivatives beside the usual one: in forward mode, by torch.func, in the target and the weight.

Each is complete or refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import segloss_fast
from tests.conformance import LOSSES, LossRecord, problem
from tests.helpers import IMPLS
from tests.records import LOVASZ_LOSSES

Loss = Callable[..., Tensor]
FUNCTIONS: dict[str, Loss] = {record.function.__name__: record.function for record in LOSSES}
FUNCTIONS |= {function.__name__: function for _, function in LOVASZ_LOSSES.values()}
KERNELS = [impl for impl in IMPLS if impl != "reference"]
SIZE = (4, 5)
pytestmark = pytest.mark.filterwarnings(
    "ignore:There is a performance drop because we have not yet implemented the batching rule"
)


def direction(x: Tensor) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(7), dtype=x.dtype)


def slope(call: Loss, x: Tensor) -> float:
    """Return the derivative along ``direction``, by the ordinary gradient."""
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(call(leaf), leaf)
    return float((grad * direction(x)).sum())


def by_duals(call: Loss, x: Tensor, v: Tensor) -> Tensor:
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(call(forward_ad.make_dual(x, v)))
    assert isinstance(found.tangent, Tensor), "the tangent was lost"
    return found.tangent


WAYS: dict[str, Callable[[Loss, Tensor, Tensor], Tensor]] = {
    "duals": by_duals,
    "jvp": lambda call, x, v: torch.func.jvp(call, (x,), (v,))[1],
    "jacfwd": lambda call, x, v: (torch.func.jacfwd(call)(x) * v).sum(),
    "jacrev": lambda call, x, v: (torch.func.jacrev(call)(x) * v).sum(),
    "grad": lambda call, x, v: (torch.func.grad(call)(x) * v).sum(),
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_every_way_gives_the_ordinary_derivative(name: str, impl: str) -> None:
    case = problem("ignore", SIZE)

    def call(x: Tensor) -> Tensor:
        return FUNCTIONS[name](x, case.target, ignore_index=case.ignore_index, impl=impl)

    wanted, v = slope(call, case.input), direction(case.input)
    for way, derivative in WAYS.items():
        assert float(derivative(call, case.input, v)) == pytest.approx(wanted, rel=1e-8), way


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_deep_supervision_has_every_derivative(impl: str) -> None:
    large, small = problem("labels", (8, 6)), problem("labels", (4, 3))
    loss = segloss_fast.DeepSupervisionLoss(segloss_fast.DiceCELoss(impl=impl))

    def call(x: Tensor) -> Tensor:
        value: Tensor = loss([x, small.input], [large.target, small.target])
        return value

    wanted, v = slope(call, large.input), direction(large.input)
    for way, derivative in WAYS.items():
        assert float(derivative(call, large.input, v)) == pytest.approx(wanted, rel=1e-8), way


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("name", ["dice_ce_loss", "lovasz_softmax_loss", "topk_loss"])
def test_kernels_refuse_forward_mode(name: str, impl: str) -> None:
    case = problem("labels", SIZE, dtype=torch.float32)
    with forward_ad.dual_level():
        x = forward_ad.make_dual(case.input, direction(case.input))
        with pytest.raises(RuntimeError, match="served by the reference only"):
            FUNCTIONS[name](x, case.target, impl=impl)


def gradient_is_whole(call: Loss, tensor: Tensor) -> bool:
    """Check the gradient in a tensor where it has one; return whether it has."""
    leaf = tensor.clone().requires_grad_()
    if not call(leaf).requires_grad:
        return False
    assert torch.autograd.gradcheck(call, (leaf,))
    return True


@pytest.mark.parametrize(
    "record", [record for record in LOSSES if not record.hard], ids=lambda record: record.name
)
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_gradient_in_a_soft_target(record: LossRecord, impl: str) -> None:
    case = problem("dense", (3, 4), batch=1)
    x, keywords = case.input / 3, {"impl": impl}
    gradient_is_whole(lambda t: record.function(x, t, **keywords), case.target.double())


@pytest.mark.parametrize("record", LOSSES, ids=lambda record: record.name)
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_gradient_in_voxel_weights(record: LossRecord, impl: str) -> None:
    case = problem("class_weighted", (3, 4), batch=1)
    assert case.voxel_weight is not None
    x, keywords = case.input / 3, {"impl": impl}
    weight = case.voxel_weight.double()
    assert gradient_is_whole(lambda w: record.function(x, case.target, w, **keywords), weight)


@pytest.mark.parametrize("module", [module for module, _ in LOVASZ_LOSSES.values()])
def test_lovasz_takes_a_target_of_values_as_constant(module: Any) -> None:  # noqa: ANN401
    case = problem("dense", SIZE)
    target = case.target.double().requires_grad_()
    assert not module()(case.input, target).requires_grad
    x = case.input.requires_grad_()
    loss = module()(x, target)
    (grad,) = torch.autograd.grad(loss, x, retain_graph=True)
    assert grad.isfinite().all()
    with pytest.raises(RuntimeError, match="appears to not have been used in the graph"):
        torch.autograd.grad(loss, target)
