"""Problems of region_sums for its tests on every device."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast import region_sums

ACTIVATIONS = [
    ("softmax", "softmax"),
    ("sigmoid", "sigmoid"),
    ("probabilities", "probabilities"),
    ("softmax", "sigmoid"),
    ("sigmoid", "softmax"),
]


def sample(
    shape: tuple[int, ...], activation: str, kind: str, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor | None, int | None]:
    """Return input, target, voxel weight and ignore_index."""
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    if activation == "probabilities":
        x = x.sigmoid()
    space = (shape[0], *shape[2:])
    labels = torch.randint(0, max(shape[1], 2), space, generator=generator)
    signed = torch.randn((shape[0], 1, *shape[2:]), generator=generator)
    if kind == "dense":
        return (
            x,
            torch.rand(shape, generator=generator),
            torch.randn(shape, generator=generator),
            None,
        )
    if kind == "ignore":
        labels[torch.rand(space, generator=generator) < 0.3] = 255
        return x, labels, signed, 255
    return x, labels, None, None


def weighted_gradient(
    x: Tensor, target: Tensor, impl: str, **options: object
) -> tuple[Tensor, Tensor]:
    """Return the rows and the gradient of a random combination of them."""
    x = x.clone().requires_grad_()
    rows = region_sums(x, target, impl=impl, **options).rows  # type: ignore[arg-type]
    factors = torch.randn(rows.shape, generator=torch.Generator().manual_seed(3), dtype=rows.dtype)
    loss = (rows * factors).sum()
    if loss.requires_grad:  # not where the terms are sums of the target alone
        loss.backward()
    return rows.detach(), torch.zeros_like(x) if x.grad is None else x.grad
