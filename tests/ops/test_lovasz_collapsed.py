"""Predictions close to one value: the histogram tells their errors apart."""

from __future__ import annotations

import pytest
import torch

from segloss_fast import lovasz, lovasz_counts
from segloss_fast.ops.lovasz.bins import layout
from tests.helpers import gradient, relative_l2
from tests.ops.lovasz_collapsed import (
    SHARES,
    binned_hinge,
    by_spread,
    collapsed,
    exact,
    hinge_logits,
    nearly_kept,
    place,
)
from tests.ops.lovasz_samples import ACTIVATIONS, IMPLS

by_impl = pytest.mark.parametrize("impl", IMPLS)
by_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


@by_impl
@by_activation
@by_spread
def test_loss_and_gradient_are_those_of_a_sort(impl: str, activation: str, spread: float) -> None:
    for share in SHARES:
        x, target = collapsed(activation, spread, share)
        value, grad = gradient(
            lambda x, target=target: lovasz(  # type: ignore[misc]
                x, target, activation=activation, method="histogram", impl=impl
            ).loss.sum(),
            x,
        )
        true, true_grad = exact(x, target, activation)
        assert abs(value.item() / true.item() - 1) < 2e-6, share
        # Where few voxels are foreground, those of the few largest errors matter most.
        bound = 1.2e-2 if share < 0.1 else (2e-3 if spread >= 1e-3 else 5e-3)
        assert relative_l2(grad, true_grad) < bound, share


@by_impl
def test_many_classes_of_one_probability(impl: str) -> None:
    """Foreground has errors near 1 - 1 / C, background near 1 / C: no bin has both."""
    generator = torch.Generator().manual_seed(0)
    for classes in (3, 4, 14):
        x = 1e-3 * torch.randn((1, classes, 5000), generator=generator)
        target = torch.randint(0, classes, (1, 5000), generator=generator)
        _, grad = gradient(
            lambda x, target=target: lovasz(  # type: ignore[misc]
                x, target, method="histogram", impl=impl
            ).loss.sum(),
            x,
        )
        assert relative_l2(grad, exact(x, target, "softmax")[1]) < 1e-5


@by_impl
@pytest.mark.parametrize("bins", [72, None, 65536])
@pytest.mark.parametrize("distance", [1e-5, 1e-4, 1e-3])
def test_small_hinge_errors_count_as_what_they_are(
    impl: str, bins: int | None, distance: float
) -> None:
    octaves, bits = layout(bins)
    for share in SHARES:
        x, target = nearly_kept(distance, share)
        value, grad = gradient(
            lambda x, target=target: lovasz(  # type: ignore[misc]
                x, target, activation="hinge", method="histogram", bins=bins, impl=impl
            ).loss.sum(),
            x,
        )
        true, true_grad = binned_hinge(x, target, octaves, bits)
        assert abs(value.item() - true.item()) < place(bits), share
        assert relative_l2(grad, true_grad) < 1e-6, share


@by_impl
@pytest.mark.parametrize("bins", [72, 1152, None, 12288, 65536])
def test_hinge_errors_have_one_bin_in_every_implementation(impl: str, bins: int | None) -> None:
    x, target = hinge_logits()
    expected = lovasz_counts(x, target, activation="hinge", bins=bins, impl="reference")
    assert (expected[0, 0, 0] > 0).sum() >= 60
    found = lovasz_counts(x, target, activation="hinge", bins=bins, impl=impl)
    assert torch.equal(found, expected)
