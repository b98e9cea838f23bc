"""The names that region_sums accepts, and the checked record of one call's options."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segloss_fast import _check
from segloss_fast.ops._voxels.maps import ACTIVATIONS

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


def options_of(
    input: Tensor,
    activation: str,
    ce_activation: str | None,
    terms: Sequence[str],
    gamma: float | None,
    ignore_index: int | None,
) -> Options:
    """Return the checked options of a call; raise TypeError or ValueError as region_sums."""
    _check.check_input(input)
    of_call = activation, ce_activation, terms, gamma, ignore_index
    try:  # compilers look into no cache
        options = (_checked if torch.compiler.is_compiling() else _known_options)(*of_call)
    except TypeError:  # an argument that no cache takes, or that is wrong
        options = _checked(*of_call)
    if input.shape[1] == 1 and "softmax" in (options.activation, options.ce_activation):
        raise _check.softmax_of_one_class(input, "'sigmoid'")
    return options


def _checked(
    activation: str,
    ce_activation: str | None,
    terms: Sequence[str],
    gamma: float | None,
    ignore_index: int | None,
) -> Options:
    """Return the checked options of any input."""
    _check.check_option("activation", activation, ACTIVATIONS)
    ce_activation = activation if ce_activation is None else ce_activation
    _check.check_option("ce_activation", ce_activation, ACTIVATIONS)
    if "probabilities" in (activation, ce_activation) and activation != ce_activation:
        raise ValueError(
            "activation and ce_activation must agree on whether input holds probabilities, "
            f"got {activation!r} and {ce_activation!r}"
        )
    if isinstance(terms, str) or not all(isinstance(term, str) for term in terms or ()):
        raise TypeError(f"terms must be a sequence of names, got {terms!r}")
    terms = tuple(terms or ())
    if not terms or len(set(terms)) < len(terms) or not set(terms) <= set(TERMS):
        raise ValueError(f"terms must be different names among {', '.join(TERMS)}, got {terms}")
    if not GAMMA_TERMS.isdisjoint(terms):
        _check.check_number("gamma", gamma, minimum=0)
    _check.check_ignore_index(ignore_index)
    exponent = 0.0 if gamma is None or GAMMA_TERMS.isdisjoint(terms) else float(gamma)
    return Options(terms, activation, ce_activation, exponent, ignore_index)


# Typed: True equals 1, but is no number here.
_known_options = functools.lru_cache(maxsize=256, typed=True)(_checked)
