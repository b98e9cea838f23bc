"""Both methods of lovasz, in all implementations, against definitions in float64."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from segloss_fast import LovaszSums, lovasz
from tests.helpers import gradient, relative_l2
from tests.ops import lovasz_definition as definition
from tests.ops.lovasz_samples import (
    ACTIVATIONS,
    IMPLS,
    KINDS,
    LAYOUT,
    foreground_of,
    sample,
)

by_impl = pytest.mark.parametrize("impl", IMPLS)
by_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


def tolerance(method: str, activation: str) -> float:
    """Return that of a loss of float64 logits.

    A histogram knows an error to 2^-16 of its bin's width (the GPU's to 2^-8), and one of the hinge
    loss, of any size, as a float32.
    """
    if method == "sort":
        return 1e-12
    return 2.0**-23 if activation == "hinge" else 3e-8


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


@by_impl
@by_activation
@pytest.mark.parametrize("method", ["sort", "histogram"])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_definition(
    impl: str, activation: str, method: str, per_image: bool, kind: str
) -> None:
    x, target, ignore_index = sample((2, 3, 5, 4, 7), kind, activation)
    call = functools.partial(
        lovasz,
        activation=activation,
        method=method,
        per_image=per_image,
        ignore_index=ignore_index,
        impl=impl,
    )
    value, grad = gradient(lambda x: call(x, target).loss, x)
    true_value, true_grad = expected(x, target, activation, method, ignore_index, per_image)
    assert value.dtype == torch.float64
    accuracy = tolerance(method, activation)
    torch.testing.assert_close(value, true_value, rtol=accuracy, atol=accuracy)
    assert relative_l2(grad, true_grad) < 1e-11


@by_impl
@by_activation
@pytest.mark.parametrize("method", ["sort", "histogram"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtypes_equal_the_rounded_input_in_float64(
    impl: str, activation: str, method: str, dtype: torch.dtype
) -> None:
    x, target, ignore_index = sample((2, 3, 9, 7, 5), "ignore", activation, torch.float32)
    if dtype != torch.float32:
        if method == "histogram":
            pytest.skip("rounded logits cannot keep away from edges; float32 shows the bins")
        x = x.to(dtype)
    call = functools.partial(
        lovasz, activation=activation, method=method, ignore_index=ignore_index, impl=impl
    )
    # The gradient of float16 is judged under a scaled loss: unscaled, most of it is denormal.
    value, grad = gradient(lambda x: 2.0**10 * call(x, target).loss, x)
    true_value, true_grad = expected(x, target, activation, method, ignore_index)
    assert grad.dtype == dtype
    torch.testing.assert_close(value / 2**10, true_value, rtol=1e-6, atol=1e-7)
    step = {torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}[dtype]
    # Errors that round to the same half-precision logits are ties in both.
    assert relative_l2(grad.double() / 2**10, true_grad) < step


@by_impl
@by_activation
@pytest.mark.parametrize("method", ["sort", "histogram"])
@pytest.mark.parametrize("size", [(1,), (97,), (3, 5), (2, 3, 5), (5, 4, 17)], ids=str)
def test_any_rank_and_size(impl: str, activation: str, method: str, size: tuple[int, ...]) -> None:
    for classes in (1, 2) if activation != "softmax" else (2,):
        x, target, _ = sample((2, classes, *size), "labels", activation)
        call = functools.partial(lovasz, activation=activation, method=method, impl=impl)
        value, grad = gradient(functools.partial(_loss, call, target, 1), x)
        true_value, true_grad = expected(x, target, activation, method)
        accuracy = tolerance(method, activation)
        torch.testing.assert_close(value, true_value, rtol=accuracy, atol=accuracy)
        assert relative_l2(grad, true_grad) < 1e-11


@by_impl
@by_activation
def test_sort_is_the_published_algorithm(impl: str, activation: str) -> None:
    x, target, _ = sample((1, 3, 25, 20), "labels", activation)
    t, counted = foreground_of(target, 3, None)

    def published(x: Tensor) -> Tensor:
        m = definition.errors(x, t, activation)
        return definition.loss(m, t, counted, False, definition.published)

    value, grad = gradient(
        lambda x: lovasz(x, target, activation=activation, method="sort", impl=impl).loss, x
    )
    true_value, true_grad = gradient(published, x)
    torch.testing.assert_close(value, true_value, rtol=1e-12, atol=1e-12)
    assert relative_l2(grad, true_grad) < 1e-9  # the published one subtracts


@by_impl
@pytest.mark.parametrize("method", ["sort", "histogram"])
def test_ties_share_the_average_over_all_orders(impl: str, method: str) -> None:
    """Errors on a coarse grid: 120 tiny problems at once, one per image."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-2, 3, (120, 1, 5), generator=generator).double() / 2 + 0.125
    target = torch.randint(0, 2, (120, 5), generator=generator)
    target[:20] = 0
    x[20:40] = 0.125
    value, grad = gradient(
        lambda x: (
            lovasz(x, target, activation="hinge", method=method, per_image=True, impl=impl).loss
        ),
        x,
    )
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
    torch.testing.assert_close(value, true_value, rtol=1e-7, atol=1e-7)
    assert relative_l2(grad, true_grad) < 1e-12


@by_impl
@by_activation
@pytest.mark.parametrize("method", ["sort", "histogram"])
def test_order_of_the_voxels_does_not_matter(impl: str, activation: str, method: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(-4, 5, (2, 3, 200), generator=generator).float()  # many ties
    target = torch.randint(0, 3, (2, 200), generator=generator)
    call = functools.partial(lovasz, activation=activation, method=method, impl=impl)
    value, grad = gradient(lambda x: call(x, target).loss, x)
    for _ in range(3):
        order = torch.randperm(200, generator=generator)
        other, other_grad = gradient(
            functools.partial(_loss, call, target[:, order], 1), x[..., order]
        )
        torch.testing.assert_close(other, value, rtol=1e-13, atol=0)
        assert torch.equal(other_grad, grad[..., order])


def _loss(call: functools.partial[LovaszSums], target: Tensor, factor: float, x: Tensor) -> Tensor:
    return factor * call(x, target).loss


@by_impl
@by_activation
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["sort", "histogram"])
def test_what_comes_with_the_loss(impl: str, activation: str, kind: str, method: str) -> None:
    x, target, ignore_index = sample((2, 3, 6, 7), kind, activation)
    t, counted = foreground_of(target, 3, ignore_index)
    for per_image in (False, True):
        call = functools.partial(
            lovasz,
            activation=activation,
            method=method,
            per_image=per_image,
            ignore_index=ignore_index,
            cross_entropy=True,
            impl=impl,
        )
        sums = call(x, target)
        foreground = t.flatten(2).sum(2)
        number = counted.flatten(1).sum(1)[:, None].expand(2, 3)
        if not per_image:
            foreground, number = foreground.sum(0, keepdim=True), number.sum(0, keepdim=True)
        assert torch.equal(sums.target, foreground.double())
        assert torch.equal(sums.weight, number.double())
        assert torch.equal(sums.present, foreground > 0)

        def cross_entropy(x: Tensor, per_image: bool = per_image) -> Tensor:
            if activation == "softmax":
                values = -x.log_softmax(1) * t
            else:
                values = torch.nn.functional.binary_cross_entropy_with_logits(
                    x, t.to(x.dtype), reduction="none"
                )
            values = (values * counted[:, None]).flatten(2).sum(2)
            return values if per_image else values.sum(0, keepdim=True)

        def ours(
            x: Tensor, call: functools.partial[LovaszSums] = call, lovasz: float = 0
        ) -> Tensor:
            sums = call(x, target)
            assert sums.cross_entropy is not None
            return sums.cross_entropy + (lovasz * sums.loss if lovasz else 0)

        value, grad = gradient(ours, x)
        true_value, true_grad = gradient(cross_entropy, x)
        torch.testing.assert_close(value, true_value, rtol=1e-12, atol=1e-12)
        assert relative_l2(grad, true_grad) < 1e-12
        both, both_grad = gradient(functools.partial(_loss, call, target, 0.3), x)
        together = gradient(functools.partial(ours, lovasz=0.3), x)
        torch.testing.assert_close(together[0], both + value)
        torch.testing.assert_close(together[1], both_grad + grad)
    assert lovasz(x, target, activation=activation, ignore_index=ignore_index).cross_entropy is None


@by_impl
@pytest.mark.parametrize("method", ["sort", "histogram"])
def test_loss_of_a_known_example(impl: str, method: str) -> None:
    """Two foreground voxels missed and one background voxel hit, at errors 0.9, 0.6 and 0.3."""
    p = torch.tensor([0.1, 0.3, 0.4, 0.1], dtype=torch.float64)
    target = torch.tensor([[1, 0, 1, 0]])
    x = torch.log(p / (1 - p)).view(1, 1, 4)
    # Errors .9 (f), .6 (f), .3 (b), .1 (b): J = 1/2, 1, 1, 1.
    value = lovasz(x, target, activation="sigmoid", method=method, impl=impl).loss.item()
    assert math.isclose(value, 0.5 * 0.9 + 0.5 * 0.6, abs_tol=tolerance(method, "sigmoid"))
