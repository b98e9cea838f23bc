"""A drop-in traced into a program, from where it asks for its sums."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from segloss_fast.ops._formula import trace
from segloss_fast.ops.region_sums import Formula, Options, RegionSums, answered_by


class Asked(NamedTuple):
    """The one call of region_sums that a drop-in makes, and what it makes of the sums.

    Attributes:
        formula: The sums and what is made of them.
        input: Of which they are.
        target: Likewise.
        voxel_weight: Likewise.
    """

    formula: Formula
    input: Tensor
    target: Tensor
    voxel_weight: Tensor | None


def asked_of(
    module: nn.Module,
    forward: Callable[..., Tensor],
    tensors: Sequence[Any],
    weights: Sequence[Tensor],
) -> Asked | None:
    """Return what a drop-in asks for, of sums made up; None if that cannot be traced.

    Args:
        module: The drop-in.
        forward: What is called.
        tensors: The arguments.
        weights: The memory of the tensors that the drop-in has itself: the program's arguments.
    """
    asked: list[tuple[Tensor, Tensor, Tensor | None, Options, str]] = []

    def formula(rows: Callable[..., Tensor], _: Sequence[Tensor]) -> Tensor:
        def answer(
            x: Tensor, target: Tensor, voxel_weight: Tensor | None, options: Options, impl: str
        ) -> RegionSums:
            asked.append((x, target, voxel_weight, options, impl))
            made_up = rows(len(options.terms), *x.shape[:2])
            return RegionSums(options.terms, made_up, constant=True)

        with answered_by(answer):
            return forward(module, *tensors)

    try:
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            program = trace(formula, weights, from_rows=True)
    except Exception:  # if it is an error, the call that follows raises it again
        return None
    if given:
        return None  # a call that ends where it asks for its sums might not give them
    ((x, target, voxel_weight, options, impl),) = asked
    return Asked(Formula(options, impl, program), x, target, voxel_weight)
