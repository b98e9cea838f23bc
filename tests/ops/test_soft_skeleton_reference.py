"""soft_skeleton's comparisons of neighbours equal its definition by pooling, in every respect."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segloss_fast.ops.soft_skeleton import reference
from tests.helpers import peak_allocation
from tests.ops.soft_skeleton_cases import KINDS, values, weights

pytestmark = pytest.mark.of("reference")

SIZES = [(37,), (8, 21), (40, 1), (1, 2), (9, 8, 17), (5, 1, 9), (2, 3, 1)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def defined(x: Tensor, iterations: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """Return the skeletons by pooling, and the gradient of a random weighted sum of them."""
    x = x.detach().requires_grad_()
    found = reference._by_class(x, iterations, first)
    found.backward(weights(x))
    assert x.grad is not None
    return found.detach(), x.grad


def quick(x: Tensor, iterations: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """Return the same by what serves on the CPU."""
    x = x.detach().requires_grad_()
    found = reference.forward(x, iterations, first)
    assert type(found.grad_fn).__name__ == "_SkeletonsBackward"
    found.backward(weights(x))
    assert x.grad is not None
    return found.detach(), x.grad


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_skeletons_are_equal_bit_by_bit(
    dtype: torch.dtype, kind: str, size: tuple[int, ...]
) -> None:
    for iterations, first in ((0, 0), (3, 1)):
        x = values(kind, (2, 3, *size)).to(dtype)
        found, grad = quick(x, iterations, first)
        true, true_grad = defined(x, iterations, first)
        assert torch.equal(found, true)
        assert found.dtype == grad.dtype == dtype
        if dtype.itemsize > 2:  # half precision rounds each of the sums, in another order
            bound = 1e-5 if dtype == torch.float32 else 1e-13
            torch.testing.assert_close(grad, true_grad, rtol=bound, atol=bound)


def test_values_outside_of_zero_and_one() -> None:
    x = 3 * values("random", (1, 2, 7, 9)) - 1
    for found, true in zip(quick(x, 3), defined(x, 3), strict=True):
        torch.testing.assert_close(found, true, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("piece", [1, 60, 130, 400, 10**6])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_groups_of_items_and_classes(
    monkeypatch: pytest.MonkeyPatch, piece: int, first: int
) -> None:
    """From a plane at a time, some classes of an item, and some items, to all at once."""
    x = values("quarters", (3, 3, 6, 10))
    true, true_grad = defined(x, 2, first)
    monkeypatch.setattr(reference, "PIECE", piece)
    found, grad = quick(x, 2, first)
    assert torch.equal(found, true)
    torch.testing.assert_close(grad, true_grad, rtol=1e-13, atol=1e-13)
    masks = x > 0.5
    assert torch.equal(reference.forward(masks, 2, first), reference._by_class(masks, 2, first))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_gets_the_definition(bad: float) -> None:
    x = values("random", (1, 2, 9, 9))
    x[0, 1, 4, 4] = bad
    y = x.clone().requires_grad_()
    found = reference.forward(y, 2, 0)
    found.backward(weights(x))
    for own, true in zip((found, y.grad), defined(x, 2), strict=True):
        assert own is not None
        assert torch.equal(own.nan_to_num(7.25), true.nan_to_num(7.25))


def test_second_derivatives() -> None:
    x = values("random", (1, 2, 4, 5)).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: reference.forward(x, 2, 1), (x,), eps=1e-7)


def test_many_gradients_at_once() -> None:
    x = values("quarters", (2, 2, 3, 4)).requires_grad_()
    many = torch.randn(3, *x.shape, dtype=x.dtype)
    expected = [torch.autograd.grad(reference.forward(x, 2, 0), x, one)[0] for one in many]
    found = reference.forward(x, 2, 0)
    (at_once,) = torch.autograd.grad(found, x, many, is_grads_batched=True)
    torch.testing.assert_close(at_once, torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_transforms_and_forward_derivatives_see_the_definition() -> None:
    x = values("random", (2, 2, 5, 6))
    tangent = weights(x)

    def call(x: Tensor) -> Tensor:
        return reference.forward(x, 2, 0)

    step = 1e-7
    expected = (call(x + step * tangent) - call(x - step * tangent)) / (2 * step)
    forward = torch.func.jvp(call, (x,), (tangent,))[1]
    torch.testing.assert_close(forward, expected, rtol=1e-6, atol=1e-6)
    with torch.autograd.forward_ad.dual_level():
        dual = call(torch.autograd.forward_ad.make_dual(x, tangent))
        found = torch.autograd.forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(found, forward)
    many = torch.func.vmap(call)(torch.stack([x, x.flip(2)]))
    assert torch.equal(many, torch.stack([call(x), call(x.flip(2))]))


def test_compiles_in_one_piece_and_whatever_the_default_device() -> None:
    x = values("random", (1, 2, 5, 6))
    expected = reference.forward(x, 2, 0)
    compiled = torch.compile(lambda x: reference.forward(x, 2, 0), fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), expected)
    with torch.device("meta"):
        assert torch.equal(reference.forward(x, 2, 0), expected)


def test_backward_keeps_the_maps_of_one_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "PIECE", 1)
    x = values("random", (2, 8, 3, 4, 2**11), torch.float32).requires_grad_()
    plane = x.nbytes // 16

    def step() -> None:
        reference.forward(x, 3, 0).sum().backward()
        x.grad = None

    # Beside them the skeletons and the gradient of the input.
    assert peak_allocation(step) < 2 * x.nbytes + 26 * plane
