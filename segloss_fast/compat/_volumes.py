"""What a loss of a peer compares, and the sums over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segloss_fast.ops.region_sums import RegionSums, region_sums


def plain(x: Tensor) -> Tensor:
    """Return a tensor without its subclass, such as MONAI's MetaTensor.

    Every operation of a subclass costs. The gradient reaches it all the same.
    """
    return x if type(x) is Tensor else x.as_subclass(Tensor)


def result_dtype(input: Tensor, target: Tensor | None = None) -> torch.dtype:
    """Return the dtype in which a peer's loss over both comes out."""
    if target is None or not target.is_floating_point():
        return input.dtype
    return torch.promote_types(input.dtype, target.dtype)


def _flat(x: Tensor, first: int) -> Tensor:
    """Return the tensor with one to three dimensions from ``first`` on."""
    rank = x.dim() - first
    if rank == 0:
        return x.unsqueeze(-1)
    return x if rank <= 3 else x.flatten(first)


@dataclass(frozen=True)
class Volumes:
    """A prediction that need not be activated yet, and a target that need not be one-hot yet.

    Attributes:
        input: ``[B, C, *S]``, S of any rank.
        activation: As for region_sums.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        first: How many of the first classes the loss leaves out.
        weight: ``[B, 1, *S]`` or ``[B, C, *S]``, as region_sums's ``voxel_weight``.
        ignore_index: Of class indices, or of the values of one class.
        dtype: Of the loss.
    """

    input: Tensor
    activation: str
    target: Tensor
    first: int = 0
    weight: Tensor | None = None
    ignore_index: int | None = None
    dtype: torch.dtype = torch.float32

    def sums(
        self,
        terms: Sequence[str],
        *,
        gamma: float | None = None,
        ce_activation: str | None = None,
        every: bool = False,
    ) -> RegionSums:
        """Return sums per item and class that has a share in the loss, float64 ``[B, C']``.

        Args:
            terms: As for region_sums.
            gamma: As for region_sums.
            ce_activation: As for region_sums.
            every: Whether the rows hold the classes that are left out, too.
        """
        found = region_sums(
            _flat(self.input, 2),
            _flat(self.target, 2 if self.target.dim() == self.input.dim() else 1),
            activation=self.activation,
            terms=terms,
            gamma=gamma,
            ce_activation=ce_activation,
            voxel_weight=None if self.weight is None else _flat(self.weight, 2),
            ignore_index=self.ignore_index,
        )
        if every or not self.first:
            return found
        return RegionSums(found.terms, found.rows[:, :, self.first :])
