"""What makes confusion_sums' reference fast on the CPU: products of blocks, one-hot values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segloss_fast.ops._voxels.labels import trusted_one_hot
from segloss_fast.ops._voxels.maps import BLOCK
from segloss_fast.ops.confusion_sums import reference
from tests.helpers import relative_l2

pytestmark = pytest.mark.of("reference")

ONE_HOT = torch.nn.functional.one_hot


def sums(x: Tensor, target: Tensor, w: Tensor | None = None) -> Tensor:
    return reference.forward(x, target, w, "softmax", None)[0]


def draw(batch: int, classes: int, voxels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return an input, labels, and the sums in float64."""
    generator = torch.Generator().manual_seed(voxels)
    x = 3 * torch.randn((batch, classes, voxels), generator=generator)
    labels = torch.randint(0, classes, (batch, voxels), generator=generator)
    return x, labels, exact(x, ONE_HOT(labels, classes).mT)


def exact(x: Tensor, t: Tensor) -> Tensor:
    t = t.double()
    p = x.double().softmax(1)
    return torch.cat([torch.einsum("blv,bcv->blc", t, p), t.sum(2, keepdim=True)], 2)


@pytest.mark.parametrize("voxels", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 70])
def test_blocks_of_any_number_of_voxels(voxels: int) -> None:
    for batch, classes in ((1, 2), (3, 5)):
        x, labels, true = draw(batch, classes, voxels)
        assert relative_l2(sums(x, labels), true) < 2e-7
        found = sums(x.double(), labels)
        assert relative_l2(found, true) < 1e-15 * BLOCK**0.5


def test_float32_is_added_up_in_blocks() -> None:
    """Of one product of matrices the error is twenty times as large."""
    x, labels, true = draw(1, 4, 2**19 + 1)
    assert relative_l2(sums(x, labels), true) < 5e-9


def test_autocast_rounds_nothing() -> None:
    """Neither in forward nor in a first or second derivative that is taken within it."""
    x, labels, true = draw(1, 3, 2 * BLOCK)
    y = x.requires_grad_()

    def differentiate() -> list[Tensor]:
        found = sums(y, labels)
        (grad,) = torch.autograd.grad((found**2).sum(), y, create_graph=True)
        return [found, grad, torch.autograd.grad((grad**2).sum(), y)[0]]

    with torch.autocast("cpu", torch.bfloat16):
        inside = differentiate()
    for cast, plain in zip(inside, differentiate(), strict=True):
        assert torch.equal(cast, plain)
    assert relative_l2(inside[0].detach(), true) < 2e-7


@pytest.mark.parametrize("dense", [False, True])
def test_second_derivatives_are_those_of_the_definition(dense: bool) -> None:
    x, target, _ = draw(2, 3, BLOCK + 9)
    t = ONE_HOT(target, 3).mT.double()
    t = t + torch.rand_like(t) if dense else t
    factors = torch.rand((2, 3, 4), dtype=torch.float64)

    def second(call: object) -> Tensor:
        assert callable(call)
        y = x.double().requires_grad_()
        (grad,) = torch.autograd.grad((call(y) ** 2 * factors).sum(), y, create_graph=True)
        return torch.autograd.grad((grad**2).sum(), y)[0]

    found = second(lambda y: sums(y, t if dense else target))
    assert relative_l2(found, second(lambda y: exact(y, t))) < 1e-12


@pytest.mark.parametrize("batch", [0, 1])
def test_gradients_of_weights_and_soft_targets(batch: int) -> None:
    x, _, _ = draw(batch, 3, 20)
    t = torch.rand(x.shape, dtype=torch.float64).requires_grad_()
    w = torch.rand((batch, 1, 20), dtype=torch.float64).requires_grad_()
    y = x.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda *tensors: sums(*tensors), (y, t, w))


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int64, torch.float16, torch.float64],
    ids=str,
)
def test_one_hot_values(dtype: torch.dtype) -> None:
    labels = (torch.arange(24).view(2, 3, 4) % 2).to(dtype)
    for classes in (2, 5):
        found = trusted_one_hot(labels, classes, None, torch.float32)
        assert found is not None
        assert torch.equal(found[0], ONE_HOT(labels.long(), classes).movedim(-1, 1).float())
        assert found[1] is None


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([[0, 3]]),
        torch.tensor([[-1, 0]]),
        torch.tensor([[0, 2**62]]),
        torch.tensor([[3, 0]], dtype=torch.uint8),
        torch.tensor([[0, 1 + 1e-12]], dtype=torch.float64),
        torch.tensor([[0.0, -1e-45]]),
        torch.tensor([[0, 1e300]], dtype=torch.float64),
        *(torch.tensor([[1, bad, 0]]) for bad in (torch.nan, torch.inf, -torch.inf, 0.5)),
    ],
    ids=str,
)
def test_labels_that_are_no_class_are_not_trusted(labels: Tensor) -> None:
    assert trusted_one_hot(labels, 3, None, torch.float32) is None
