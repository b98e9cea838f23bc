"""The result of lovasz."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class LovaszSums:
    """The loss of every image and class, and what a mean over them needs.

    All are ``[I, C]``: I is B where each item has a loss of its own, else 1. Numbers are float64
    (float32 on devices without it).

    Attributes:
        loss: The Lovász extension of the Jaccard loss; differentiable.
        present: Whether the class has a voxel in the target, bool.
        cross_entropy: The sum of the cross-entropy over the voxels, differentiable; None if it was
            not asked for.
        target: The number of foreground voxels.
        weight: The number of voxels that count.
    """

    loss: Tensor
    present: Tensor
    cross_entropy: Tensor | None
    target: Tensor
    weight: Tensor
