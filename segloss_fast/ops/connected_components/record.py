"""The result of connected_components."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Components:
    """The connected components of every mask.

    Attributes:
        labels: int32 ``[B, C, *S]``: the number of each voxel's component, 0 in the background.
        count: int32 ``[B, C]``: how many components there are.
        value: int32 ``[B, K]``: what value the voxels of each component have, K the largest count;
            0 beyond an item's count. None unless components were formed by value.
    """

    labels: Tensor
    count: Tensor
    value: Tensor | None = None
