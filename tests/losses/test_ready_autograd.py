"""The last call of a loss is kept for the next one, whatever autograd and torch.func do with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import segloss_fast as sf
from segloss_fast._native import _C
from tests.helpers import assert_close, forget_plans
from tests.losses.ready_cases import problem, ready, same_as_alone

pytestmark = pytest.mark.skipif(_C is None, reason="the native module is not built")


@pytest.fixture(autouse=True)
def no_plans_before(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_plans(monkeypatch)


class _Wrapped(Tensor):
    """As MONAI's MetaTensor and fastai's TensorImage are."""


def test_gradients_are_wanted_or_not() -> None:
    x, labels = problem()
    loss = ready(sf.DiceCELoss(), x.detach(), labels)
    assert not loss(x.detach(), labels).requires_grad
    same_as_alone(lambda x: loss(x, labels), x)
    with torch.no_grad():
        assert not loss(x, labels).requires_grad
    with torch.inference_mode():
        assert loss(x, labels).is_inference()
        inside = x.detach().clone()
        value = loss(inside, labels)
    assert_close(value.clone(), loss(x, labels).detach(), 0)
    same_as_alone(lambda x: loss(x, labels), x)


def test_transforms_of_functions() -> None:
    x, labels = problem()
    loss = ready(sf.DiceCELoss())
    (true,) = torch.autograd.grad(loss(x, labels), x)
    assert_close(torch.func.grad(lambda x: loss(x, labels))(x.detach()), true, 1e-6)
    both = torch.stack([x.detach(), x.detach() + 1])
    found = torch.func.vmap(lambda x: loss(x, labels))(both)
    assert_close(found[1], loss(both[1], labels), 1e-6)
    value = loss(x, labels)
    scales = torch.tensor([1.0, 2.0, -3.0])
    (many,) = torch.autograd.grad(value, x, scales, is_grads_batched=True, retain_graph=True)
    assert_close(many, scales.view(3, 1, 1, 1, 1) * true, 1e-6)
    value = loss(x, labels)
    (grad,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative in its kernels"):
        grad.sum().backward()


def test_a_wrapper_that_a_transform_left_behind() -> None:
    x, labels = problem()
    loss = ready(sf.DiceCELoss())
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x.sum()

    torch.func.grad(keep)(x.detach())
    assert_close(loss(kept[0], labels).detach(), loss(x, labels).detach(), 0)
    with pytest.raises(RuntimeError):
        kept[0].data_ptr()  # it has no numbers of its own


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_graphs_that_are_recorded() -> None:
    """What torch writes down holds for other numbers."""
    x, labels = problem()
    loss = ready(sf.DiceCELoss())
    other = x.detach() * 2
    true = loss(other, labels)
    assert_close(make_fx(lambda x: loss(x, labels))(x.detach())(other), true, 1e-6)
    assert_close(torch.jit.trace(lambda x: loss(x, labels), x.detach())(other), true, 1e-6)
    compiled: Any = torch.compile(loss, backend="eager")
    assert_close(compiled(other, labels), true, 1e-6)


def test_backward_again_and_after_a_change() -> None:
    x, labels = problem()
    loss = ready(sf.DiceCELoss())
    value = loss(x, labels)
    first, again = (torch.autograd.grad(value, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)
    (third,) = torch.autograd.grad(3 * value, x)
    assert_close(third, 3 * first, 1e-6)
    with pytest.raises(RuntimeError, match="second time"):
        value.backward()
    value = loss(x, labels)
    with torch.no_grad():
        x.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_hooks() -> None:
    x, labels = problem()
    loss = ready(sf.DiceCELoss())
    seen: list[str] = []
    loss.register_forward_hook(lambda *_: seen.append("forward"))
    loss.register_full_backward_hook(lambda *_: seen.append("backward"))
    x.register_hook(lambda grad: seen.append("gradient"))

    def pack(tensor: Tensor) -> Tensor:
        seen.append("pack")
        return tensor.clone()

    with torch.autograd.graph.saved_tensors_hooks(
        pack, lambda tensor: tensor.as_subclass(_Wrapped)
    ):
        value = loss(x, labels)
    value.backward()
    assert set(seen) == {"forward", "backward", "gradient", "pack"}
    own = x.detach().clone().requires_grad_()
    sf.DiceCELoss()(own, labels).backward()
    assert x.grad is not None
    assert own.grad is not None
    assert torch.equal(x.grad.as_subclass(Tensor), own.grad)
    for reentrant in (False, True):
        repeated = checkpoint(loss, own, labels, use_reentrant=reentrant)
        expected = own.grad.clone()
        repeated.backward()
        assert torch.equal(own.grad, 2 * expected)
        own.grad = expected
