"""The result of region_sums."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from segloss_fast.ops.region_sums.options import TERMS, WITHOUT_INPUT


@dataclass(frozen=True, eq=False)
class RegionSums:
    """Rows of sums, one per term, as attributes: ``sums.tp`` is ``[B, C]``.

    Two records with the same terms add up (chunks of a volume, ranks).

    Attributes:
        terms: Names of the rows.
        rows: ``[K, B, C]``, float64 (float32 on devices without it).
        constant: Whether the rows that do not depend on the input are constants, as those of the
            kernels are: they are handed out without a gradient, which would cost and be nothing.
            The reference is differentiable in target and voxel weight.
    """

    terms: tuple[str, ...]
    rows: Tensor
    constant: bool = False
    # The rows one by one, once asked for: one unbind has a cheaper gradient than an index per row.
    _unbound: list[Tensor] = field(default_factory=list, init=False, repr=False)

    def __getattr__(self, name: str) -> Tensor:
        if name in TERMS:
            if name in self.terms:
                rows = self._unbound or self.rows.unbind()
                # Rows taken under no_grad have no gradient: not those to hand out later.
                if torch.is_grad_enabled() or not self.rows.requires_grad:
                    self._unbound[:] = rows
                row = rows[self.terms.index(name)]
                return row.detach() if self.constant and name in WITHOUT_INPUT else row
            raise AttributeError(f"the row {name!r} was not asked for: terms is {self.terms}")
        raise AttributeError(f"RegionSums has no attribute {name!r}")

    def __add__(self, other: RegionSums) -> RegionSums:
        if not isinstance(other, RegionSums):
            return NotImplemented
        if self.terms != other.terms:
            raise ValueError(
                f"only sums of the same terms add up, got {self.terms} and {other.terms}"
            )
        return RegionSums(self.terms, self.rows + other.rows, self.constant and other.constant)

    def __radd__(self, other: int) -> RegionSums:
        return self if other == 0 else NotImplemented  # sum() begins with 0
