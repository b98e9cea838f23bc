"""The counts of lovasz, and the derivatives of its losses by differences."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from segloss_fast import lovasz, lovasz_counts
from tests.ops import lovasz_definition as definition
from tests.ops.lovasz_samples import (
    ACTIVATIONS,
    IMPLS,
    LAYOUT,
    foreground_of,
    sample,
)

by_impl = pytest.mark.parametrize("impl", IMPLS)
by_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


@by_impl
@by_activation
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("bins", [None, 4096, 1152])
def test_counts(impl: str, activation: str, per_image: bool, bins: int | None) -> None:
    x, target, ignore_index = sample((2, 3, 9, 8), "ignore", activation)
    t, counted = foreground_of(target, 3, ignore_index)
    octaves, bits = {None: LAYOUT, 4096: (16, 6), 1152: (9, 5)}[bins]
    found = lovasz_counts(
        x,
        target,
        activation=activation,
        bins=bins,
        per_image=per_image,
        ignore_index=ignore_index,
        impl=impl,
    )
    assert found.dtype == torch.int64
    assert found.shape == (2 if per_image else 1, 3, 2, 4 * octaves * 2**bits)
    m = definition.errors(x, t, activation)
    for i, c, errors, foreground, _ in definition.images(m, t, counted, per_image):
        place = definition.bin_of(errors, 1 - errors, octaves, bits, activation)
        for k in (0, 1):
            number = torch.bincount(place[foreground == k], minlength=found.shape[-1])
            assert torch.equal(found[i, c, k], number)


@by_impl
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_errors_of_one_half_are_counted_alike(impl: str, activation: str) -> None:
    """As a network has them before it has learnt anything: counts of ranks must add up."""
    x, target = torch.zeros(1, 2, 9), torch.arange(9)[None] % 2
    found = lovasz_counts(x, target, activation=activation, impl=impl)
    assert torch.equal(found, lovasz_counts(x, target, activation=activation, impl="reference"))
    half = definition.bin_of(
        torch.tensor([0.5]).double(), torch.tensor([0.5]).double(), *LAYOUT, activation
    )
    assert found[0, 0, :, int(half)].tolist() == [4, 5]


@by_impl
@by_activation
def test_counts_of_chunks_add_up(impl: str, activation: str) -> None:
    x, target, _ = sample((2, 3, 9, 8), "labels", activation, torch.float32)
    call = functools.partial(lovasz_counts, activation=activation, impl=impl)
    parts = call(x[:, :, :4], target[:, :4]) + call(x[:, :, 4:], target[:, 4:])
    assert torch.equal(parts, call(x, target))
    assert torch.equal(call(x, target, per_image=True).sum(0, keepdim=True), parts)


@by_impl
@by_activation
@pytest.mark.parametrize("method", ["sort", "histogram"])
def test_gradcheck(impl: str, activation: str, method: str) -> None:
    if method == "histogram" and impl != "reference":
        pytest.skip("its loss knows errors to 2^-16 of a bin; the reference has the true ones")
    x, target, ignore_index = sample((2, 2, 3, 4), "ignore", activation, seed=3)

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        sums = lovasz(
            x,
            target,
            activation=activation,
            method=method,
            ignore_index=ignore_index,
            cross_entropy=True,
            impl=impl,
        )
        assert sums.cross_entropy is not None
        return sums.loss, sums.cross_entropy

    assert torch.autograd.gradcheck(both, (x.requires_grad_(),), eps=1e-7, atol=1e-5)


def test_double_backward_of_the_reference() -> None:
    x, target, _ = sample((1, 3, 4, 5), "labels")
    x.requires_grad_()
    for method in ("sort", "histogram"):
        loss = lovasz(x, target, method=method, impl="reference").loss.sum()
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        grad.square().sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert x.grad.abs().max() > 0
