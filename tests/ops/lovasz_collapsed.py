"""Predictions close to one value, for lovasz: as of a network before and after its training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.helpers import gradient, relative_l2
from tests.ops import lovasz_definition as definition
from tests.ops.lovasz_samples import foreground_of

SPREADS = (1e-4, 1e-3, 1e-2, 1e-1)
SHARES = (0.3, 0.01)  # of the foreground
by_spread = pytest.mark.parametrize("spread", SPREADS)


def collapsed(
    activation: str, spread: float, share: float, voxels: int = 20000
) -> tuple[Tensor, Tensor]:
    """Return logits near 0, float32 ``[1, C, N]``: two classes of a softmax, else one; and labels.

    Probabilities are near 1/2, hinge errors near 1.
    """
    generator = torch.Generator().manual_seed(int(1 / spread))
    classes = 2 if activation == "softmax" else 1
    x = spread * torch.randn((1, classes, voxels), generator=generator)
    return x, (torch.rand((1, voxels), generator=generator) < share).to(torch.uint8)


def exact(x: Tensor, target: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """Return the loss ``[1, C]`` and the gradient of its sum, by the published sort in float64."""
    t, counted = foreground_of(target, x.shape[1], None)

    def loss(x: Tensor) -> Tensor:
        m = definition.errors(x, t, activation)
        return definition.loss(m, t, counted, False, definition.published)

    return gradient(lambda x: loss(x).sum(), x.double())


def assert_near_a_sort(loss: Tensor, grad: Tensor, x: Tensor, target: Tensor, name: str) -> None:
    """Assert that a histogram's loss and gradient are about those of the published sort."""
    true, true_grad = exact(x, target, name)
    assert abs(loss.sum().item() / true.item() - 1) < 2e-6
    assert relative_l2(grad, true_grad) < 5e-3


def nearly_kept(distance: float, share: float, voxels: int = 20000) -> tuple[Tensor, Tensor]:
    """Return logits of a network trained by the hinge, float32 ``[1, 1, N]``, and labels.

    Half of the margins are kept, at an error of 0; the others' errors are about ``distance``. All
    are the same float32 in every implementation.
    """
    generator = torch.Generator().manual_seed(int(1 / distance))
    target = (torch.rand((1, voxels), generator=generator) < share).to(torch.uint8)
    margin = 1 - distance * torch.randn((1, 1, voxels), generator=generator)
    return torch.where(target[:, None] == 1, margin, -margin), target


def binned_hinge(x: Tensor, target: Tensor, octaves: int, bits: int) -> tuple[Tensor, Tensor]:
    """Return the loss ``[1, 1]`` in which the voxels of a bin share weights, and its gradient."""
    t, counted = foreground_of(target, 1, None)

    def weights(m: Tensor, t: Tensor) -> Tensor:
        return definition.grouped(definition.bin_of(m, 1 - m, octaves, bits, "hinge"), t)

    def loss(x: Tensor) -> Tensor:
        return definition.loss(definition.errors(x, t, "hinge"), t, counted, False, weights)

    value, grad = gradient(loss, x.double())
    # An error of 0 is none: clamp_min passes its gradient on.
    return value, grad.masked_fill(definition.errors(x, t, "hinge") == 0, 0)


def place(bits: int) -> float:
    """Return how far a place in the bin of hinge errors next to 0 is from the error it is for.

    That is half of 2^-16 of its width, and what a float32 may leave of the distance from 1.
    """
    return 2.0 ** -(2 + bits) * 2.0**-17 + 2.0**-24


def hinge_logits() -> tuple[Tensor, Tensor]:
    """Return logits whose errors are the same float32 in every implementation, and labels.

    They crowd at 1 and at 0, lie on bounds of bins and next to them, and reach 2^16.
    """
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn((8, 1000), generator=generator)
    scales = 10.0 ** torch.tensor([-8, -6, -4, -3, -2, -1, 0, 1])[:, None]
    bounds = definition.edges(12, 6, "hinge")[:-1].float()
    large = 2 ** (15.9 * torch.rand(1000, generator=generator))
    x = torch.cat([(scales * normal).flatten(), 1 + normal[0] / 1e6, 1 - bounds, -large])
    x = torch.cat([x, torch.nextafter(x, torch.ones(())), torch.nextafter(x, -torch.ones(()))])
    x = x[x > -65534][None, None]
    return x, torch.zeros(1, x.shape[2], dtype=torch.uint8)
