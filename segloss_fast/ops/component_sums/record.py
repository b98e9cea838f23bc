"""The result of component_sums."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

TERMS = ("tp", "pred", "target", "weight", "nll", "nll_neg", "pred_sq", "fp", "fn")


@dataclass(frozen=True, eq=False)
class ComponentSums:
    """Rows of sums, one per term, as attributes: ``sums.tp`` is ``[B, C, K + 1]``.

    Attributes:
        terms: Names of the rows.
        rows: ``[terms, B, C, K + 1]``, float64 (float32 on devices without it); bin 0 comes first.
    """

    terms: tuple[str, ...]
    rows: Tensor

    def __getattr__(self, name: str) -> Tensor:
        if name not in TERMS:
            raise AttributeError(f"ComponentSums has no attribute {name!r}")
        if name not in self.terms:
            raise AttributeError(f"the row {name!r} was not asked for: terms is {self.terms}")
        return self.rows[self.terms.index(name)]
