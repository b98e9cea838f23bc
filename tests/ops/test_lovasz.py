"""What lovasz promises on every machine: the losses of both methods by their definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast import LovaszSums, lovasz
from tests.helpers import gradient, relative_l2
from tests.machines import Machine, on, sized
from tests.ops import lovasz_definition as definition
from tests.ops.lovasz_cases import (
    best_dtype,
    by_activation,
    by_method,
    require,
)
from tests.ops.lovasz_samples import KINDS, LAYOUT, foreground_of, sample

CASES = 56  # of each kind, activation and length


def tolerance(machine: Machine, method: str, activation: str) -> float:
    """Return that of a loss, of float64 logits where the machine has them.

    A histogram knows an error to 2^-16 of its bin's width (a GPU's to 2^-8), and one of the hinge
    loss, of any size, as a float32.
    """
    if machine.family not in ("reference", "native"):
        return 1e-11 if method == "sort" else 128.5 * 2.0**-23 + 1e-6
    if method == "sort":
        return 1e-12
    return 2.0**-23 if activation == "hinge" else 3e-8


def of_gradient(machine: Machine) -> float:
    return 1e-11 if best_dtype(machine) == torch.float64 else 2e-6


def call(machine: Machine, x: Tensor, target: Tensor, **options: Any) -> LovaszSums:  # noqa: ANN401
    """Return what a caller gets."""
    return lovasz(machine.place(x), machine.place(target), impl=machine.asked, **options)


def derive(
    machine: Machine,
    x: Tensor,
    target: Tensor,
    factor: float = 1,
    **options: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor]:
    """Return a multiple of the loss, and the gradient of a weighted sum of its values."""
    value, grad = gradient(
        lambda x: factor * call(machine, x, target, **options).loss, machine.place(x)
    )
    return value.cpu(), grad.cpu()


def expected(
    x: Tensor,
    target: Tensor,
    activation: str,
    method: str,
    ignore_index: int | None = None,
    per_image: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the loss and the gradient of a weighted sum of its values, by the definition."""
    t, counted = foreground_of(target, x.shape[1], ignore_index)

    def loss(x: Tensor) -> Tensor:
        m = definition.errors(x, t, activation)
        weights = definition.exact
        if method == "histogram":
            # 1 - m is as exact as the definition needs it: sample keeps away from the edges.
            def weights(m: Tensor, t: Tensor) -> Tensor:
                return definition.grouped(definition.bin_of(m, 1 - m, *LAYOUT, activation), t)

        return definition.loss(m, t, counted, per_image, weights)

    return gradient(loss, x.double())


def check(machine: Machine, x: Tensor, target: Tensor, ignore_index: int | None, **o: Any) -> None:  # noqa: ANN401
    value, grad = derive(machine, x, target, ignore_index=ignore_index, **o)
    true_value, true_grad = expected(x, target, ignore_index=ignore_index, **o)
    assert value.dtype == torch.float64
    accuracy = tolerance(machine, o["method"], o["activation"])
    torch.testing.assert_close(value, true_value, rtol=accuracy, atol=accuracy)
    assert relative_l2(grad, true_grad) < of_gradient(machine)


@by_activation
@by_method
@pytest.mark.parametrize("per_image", [False, True])
@sized("kind", KINDS, interpreted=["ignore", "rare"])
def test_equals_the_definition(
    machine: Machine, kind: str, method: str, activation: str, per_image: bool
) -> None:
    require(machine, method)
    x, target, ignored = sample((2, 3, 5, 4, 7), kind, activation, best_dtype(machine))
    check(machine, x, target, ignored, activation=activation, method=method, per_image=per_image)


@by_activation
@by_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtypes_equal_the_rounded_input_in_float64(
    machine: Machine, method: str, activation: str, dtype: torch.dtype
) -> None:
    require(machine, method, dtype)
    x, target, ignored = sample((2, 3, 9, 7, 5), "ignore", activation, torch.float32)
    if dtype != torch.float32:
        if method == "histogram":
            pytest.skip("rounded logits cannot keep away from edges; float32 shows the bins")
        x = x.to(dtype)
    options: Any = {"activation": activation, "method": method, "ignore_index": ignored}
    # The gradient of float16 is judged under a scaled loss: unscaled, most of it is denormal.
    value, grad = derive(machine, x, target, 2.0**10, **options)
    true_value, true_grad = expected(x, target, **options)
    assert grad.dtype == dtype
    accuracy = max(1e-6, 2 * tolerance(machine, method, activation))
    torch.testing.assert_close(value / 2**10, true_value, rtol=accuracy, atol=1e-7)
    step = {torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}[dtype]
    # Errors that round to the same half-precision logits are ties in both.
    assert relative_l2(grad.double() / 2**10, true_grad) < step


@by_activation
@by_method
@pytest.mark.parametrize("size", [(1,), (97,), (3, 5), (2, 3, 5), (5, 4, 17)], ids=str)
def test_any_rank_and_size(
    machine: Machine, method: str, activation: str, size: tuple[int, ...]
) -> None:
    require(machine, method)
    for classes in (1, 2) if activation != "softmax" else (2,):
        x, target, _ = sample((2, classes, *size), "labels", activation, best_dtype(machine))
        check(machine, x, target, None, activation=activation, method=method)


@on("reference", "native", "shim", "cuda")
@by_activation
def test_sort_is_the_published_algorithm(machine: Machine, activation: str) -> None:
    require(machine, "sort")
    x, target, _ = sample((1, 3, 25, 20), "labels", activation)
    t, counted = foreground_of(target, 3, None)

    def published(x: Tensor) -> Tensor:
        m = definition.errors(x, t, activation)
        return definition.loss(m, t, counted, False, definition.published)

    value, grad = derive(machine, x, target, activation=activation, method="sort")
    true_value, true_grad = gradient(published, x)
    torch.testing.assert_close(value, true_value, rtol=1e-12, atol=1e-12)
    assert relative_l2(grad, true_grad) < 1e-9  # the published one subtracts


@on("reference", "native")  # others have as many tables as images
@by_method
def test_ties_share_the_average_over_all_orders(machine: Machine, method: str) -> None:
    """Errors on a coarse grid: 120 tiny problems at once, one per image."""
    require(machine, method)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-2, 3, (120, 1, 5), generator=generator).double() / 2 + 0.125
    target = torch.randint(0, 2, (120, 5), generator=generator)
    target[:20] = 0
    x[20:40] = 0.125
    options: Any = {"activation": "hinge", "method": method, "per_image": True}
    value, grad = derive(machine, x.to(best_dtype(machine)), target, **options)
    t = target[:, None] != 0
    m = definition.errors(x, t, "hinge")
    everything = torch.ones(120, 5, dtype=torch.bool)

    def by_all_orders(x: Tensor) -> Tensor:
        m = definition.errors(x, t, "hinge")
        return definition.loss(m, t, everything, True, definition.all_orders)

    true_value, true_grad = gradient(by_all_orders, x)
    true_grad[m == 0] = 0  # not an error: clamp_min passes the gradient on
    ties = sum(len(row.unique()) < 5 for row in m)
    assert ties > 80
    accuracy = max(1e-7, tolerance(machine, method, "hinge"))
    torch.testing.assert_close(value, true_value, rtol=accuracy, atol=accuracy)
    bound = 1e-12 if best_dtype(machine) == torch.float64 else 2e-7
    assert relative_l2(grad, true_grad) < bound


@by_activation
@by_method
def test_order_of_the_voxels_does_not_matter(
    machine: Machine, method: str, activation: str
) -> None:
    require(machine, method)
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(-4, 5, (2, 3, 200), generator=generator).float()  # many ties
    target = torch.randint(0, 3, (2, 200), generator=generator)
    options: Any = {"activation": activation, "method": method}
    value, grad = derive(machine, x, target, **options)
    for _ in range(machine.pick(3, interpreted=1, shim=1)):
        order = torch.randperm(200, generator=generator)
        other, other_grad = derive(machine, x[..., order], target[:, order], **options)
        torch.testing.assert_close(other, value, rtol=1e-13, atol=0)
        assert torch.equal(other_grad, grad[..., order])


@by_activation
@by_method
@sized("kind", KINDS, interpreted=["ignore"], shim=["ignore", "dense"])
def test_what_comes_with_the_loss(
    machine: Machine, kind: str, method: str, activation: str
) -> None:
    require(machine, method)
    x, target, ignored = sample((2, 3, 6, 7), kind, activation, best_dtype(machine))
    t, counted = foreground_of(target, 3, ignored)
    given: Any = {"activation": activation, "method": method, "ignore_index": ignored}
    close = 1e-12 if x.dtype == torch.float64 else 1e-6
    for per_image in (False, True):
        options = given | {"per_image": per_image, "cross_entropy": True}
        sums = call(machine, x, target, **options)
        foreground = t.flatten(2).sum(2)
        number = counted.flatten(1).sum(1)[:, None].expand(2, 3)
        if not per_image:
            foreground, number = foreground.sum(0, keepdim=True), number.sum(0, keepdim=True)
        assert torch.equal(sums.target.cpu(), foreground.double())
        assert torch.equal(sums.weight.cpu(), number.double())
        assert torch.equal(sums.present.cpu(), foreground > 0)

        def cross_entropy(x: Tensor, per_image: bool = per_image) -> Tensor:
            if activation == "softmax":
                values = -x.log_softmax(1) * t
            else:
                values = torch.nn.functional.binary_cross_entropy_with_logits(
                    x, t.to(x.dtype), reduction="none"
                )
            values = (values * counted[:, None]).flatten(2).sum(2)
            return values if per_image else values.sum(0, keepdim=True)

        def ours(x: Tensor, lovasz: float = 0, options: Any = options) -> Tensor:  # noqa: ANN401
            sums = call(machine, x, target, **options)
            assert sums.cross_entropy is not None
            return sums.cross_entropy + (lovasz * sums.loss if lovasz else 0)

        value, grad = (tensor.cpu() for tensor in gradient(ours, machine.place(x)))
        true_value, true_grad = gradient(cross_entropy, x.double())
        torch.testing.assert_close(value, true_value, rtol=close, atol=close)
        assert relative_l2(grad, true_grad) < close
        both, both_grad = derive(machine, x, target, 0.3, **options)
        together = gradient(lambda x, ours=ours: ours(x, 0.3), machine.place(x))  # type: ignore[misc]
        torch.testing.assert_close(together[0].cpu(), both + value)
        torch.testing.assert_close(together[1].cpu(), both_grad + grad)
    assert call(machine, x, target, **given).cross_entropy is None


@by_method
def test_loss_of_a_known_example(machine: Machine, method: str) -> None:
    """Two foreground voxels missed and one background voxel hit, at errors 0.9, 0.6 and 0.3."""
    require(machine, method)
    p = torch.tensor([0.1, 0.3, 0.4, 0.1], dtype=torch.float64)
    target = torch.tensor([[1, 0, 1, 0]])
    x = torch.log(p / (1 - p)).view(1, 1, 4).to(best_dtype(machine))
    # Errors .9 (f), .6 (f), .3 (b), .1 (b): J = 1/2, 1, 1, 1.
    value = call(machine, x, target, activation="sigmoid", method=method).loss.item()
    accuracy = tolerance(machine, method, "sigmoid")
    assert math.isclose(value, 0.5 * 0.9 + 0.5 * 0.6, abs_tol=accuracy)


@on("reference", "native")
@by_activation
@by_method
def test_gradcheck(machine: Machine, method: str, activation: str) -> None:
    if method == "histogram" and machine.impl != "reference":
        pytest.skip("its loss knows errors to 2^-16 of a bin; the reference has the true ones")
    x, target, ignored = sample((2, 2, 3, 4), "ignore", activation, seed=3)
    options: Any = {"activation": activation, "method": method, "ignore_index": ignored}

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        sums = call(machine, x, target, cross_entropy=True, **options)
        assert sums.cross_entropy is not None
        return sums.loss, sums.cross_entropy

    assert torch.autograd.gradcheck(both, (x.requires_grad_(),), eps=1e-7, atol=1e-5)
