"""Problems of lovasz for its tests on every device."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast.ops.lovasz import bins
from tests.helpers import impls
from tests.ops import lovasz_definition as definition

ACTIVATIONS = ("softmax", "sigmoid", "hinge")
IMPLS = impls("lovasz")
LAYOUT = bins.layout(None)
KINDS = ("labels", "ignore", "dense", "rare")


def foreground_of(target: Tensor, classes: int, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """Return t, bool ``[B, C, *S]``, and which voxels count ``[B, *S]``."""
    if target.dim() > 2 and target.shape[1] == classes and target.is_floating_point():
        counted = target[:, 0] != (torch.nan if ignore_index is None else ignore_index)
        return (target > 0.5) & counted[:, None], counted
    counted = torch.ones_like(target, dtype=torch.bool)
    if ignore_index is not None:
        counted = target != ignore_index
    if classes == 1:
        return ((target == 1) & counted)[:, None], counted
    return torch.stack([(target == c) & counted for c in range(classes)], 1), counted


def sample(
    shape: tuple[int, ...],
    kind: str,
    activation: str = "softmax",
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    layout: tuple[int, int] = LAYOUT,
) -> tuple[Tensor, Tensor, int | None]:
    """Return logits, whose errors keep away from the edges of the bins, target and ignore_index.

    So implementations that round differently must count the same. Near 1/2 (the hinge: 1) bins are
    as narrow as float32 can tell apart: no error is there. Hinge errors of half precision are exact
    in float32, and so are their bins: they may lie anywhere.

    Args:
        shape: ``[B, C, *S]``.
        kind: "labels"; "ignore" (labels with ignored voxels); "dense" (values, several classes may
            overlap); "rare" (the last class has no voxel, the one before it one).
        activation: For which errors.
        dtype: Of the logits.
        seed: Of the random numbers.
        layout: Octaves and bits of the bins.
    """
    if activation == "hinge" and torch.finfo(dtype).bits == 16:
        x, target, ignore_index = sample(shape, kind, "sigmoid", torch.float64, seed, layout)
        return x.to(dtype), target, ignore_index
    generator = torch.Generator().manual_seed(seed)
    space = (shape[0], *shape[2:])
    classes = shape[1]
    target = torch.randint(0, max(classes, 2), space, generator=generator)
    ignore_index = None
    if kind == "dense":
        target = torch.rand(shape, generator=generator)
    elif kind == "ignore":
        target[torch.rand(space, generator=generator) < 0.3] = 255
        ignore_index = 255
    elif kind == "rare":
        target = torch.zeros(space, dtype=torch.int64)
        target.view(-1)[:1] = max(classes - 2, 1)
    t, _ = foreground_of(target, classes, ignore_index)
    x = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    while True:
        x = x.to(dtype).double()
        near = near_an_edge(definition.errors(x, t, activation), activation, layout).any(
            1, keepdim=True
        )
        if not near.any():
            return x.to(dtype), target, ignore_index
        x = torch.where(near, 3 * torch.randn(shape, generator=generator, dtype=torch.float64), x)


def near_an_edge(m: Tensor, activation: str, layout: tuple[int, int]) -> Tensor:
    """Whether an error is so near the edge of a bin that rounding could move it across."""
    bounds = definition.edges(*layout, activation)
    k = torch.searchsorted(bounds, m, right=True).clamp_max(bounds.numel() - 1)
    e = m if activation == "hinge" else torch.minimum(m, 1 - m)
    slack = 1e-5 * e.clamp_min(1e-2 if activation == "hinge" else 1e-9)
    near = (m - bounds[k - 1] < slack) | (bounds[k] - m < slack)
    near |= (m - (1 if activation == "hinge" else 0.5)).abs() < 1e-2
    return near & (m > 0) if activation == "hinge" else near  # 0 has a bin of its own
