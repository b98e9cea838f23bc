"""The names that region_sums accepts, and the record of one call's options."""

from __future__ import annotations

from dataclasses import dataclass

# The order is the numbering of the native kernels (csrc/region_sums/kernels.h).
TERMS = (
    "tp",
    "tp_soft",
    "fp",
    "fn",
    "pred",
    "target",
    "pred_sq",
    "target_sq",
    "sq_err",
    "sq_err_pos",
    "sq_err_neg",
    "abs_err",
    "nll",
    "nll_neg",
    "nll_all",
    "nll_pow",
    "focal",
    "focal_neg",
    "weight",
)
GAMMA_TERMS = frozenset({"nll_pow", "focal", "focal_neg"})
WITHOUT_INPUT = frozenset({"target", "target_sq", "weight"})  # they do not depend on it


@dataclass(frozen=True)
class Options:
    """What one call asks for, already checked.

    Attributes:
        terms: The rows to compute, in the order of the result.
        activation: Of the terms in p.
        ce_activation: Of the terms with a logarithm.
        gamma: The exponent of nll_pow, focal and focal_neg; 0 where none is asked for.
        ignore_index: The label of voxels that do not count, or None.
    """

    terms: tuple[str, ...]
    activation: str
    ce_activation: str
    gamma: float
    ignore_index: int | None
