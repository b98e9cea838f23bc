"""Problems of component_sums, and how a machine solves them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segloss_fast import ComponentSums, component_sums
from tests.helpers import gradient
from tests.machines import Machine


def placed(machine: Machine, options: dict[str, Any]) -> dict[str, Any]:
    """Return keywords with their tensors where the machine takes them, and what asks for it."""
    there = {
        name: machine.place(value) if isinstance(value, Tensor) else value
        for name, value in options.items()
    }
    return {**there, "impl": machine.asked}


def solve(
    machine: Machine,
    x: Tensor,
    labels: Tensor,
    bins: Tensor,
    **options: Any,  # noqa: ANN401
) -> ComponentSums:
    """Return the sums of a problem of the CPU, on the CPU.

    Args:
        machine: What solves it.
        x: The input.
        labels: The target.
        bins: As of component_sums.
        **options: Its keywords, but for impl.
    """
    x, labels, bins = (machine.place(tensor) for tensor in (x, labels, bins))
    found = component_sums(x, labels, bins, **placed(machine, options))
    return ComponentSums(found.terms, found.rows.cpu())


def solve_both(
    machine: Machine,
    x: Tensor,
    labels: Tensor,
    bins: Tensor,
    *,
    read: Sequence[str] | None = None,
    **options: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor]:
    """Return the rows and the gradient of their weighed sum, where the machine has them.

    Args:
        machine: What solves it.
        x: The input.
        labels: The target.
        bins: As of component_sums.
        read: Which rows are read; all that are asked for if None.
        **options: Keywords of component_sums, but for impl.
    """
    x, labels, bins = (machine.place(tensor) for tensor in (x, labels, bins))
    keywords = placed(machine, options)

    def rows(x: Tensor) -> Tensor:
        every = component_sums(x, labels, bins, **keywords)
        if read is None:
            return every.rows
        # Of what does not depend on the input there is a gradient, too: 0.
        return torch.stack([getattr(every, term) for term in read]) + 0 * x.sum()

    return gradient(rows, x)
