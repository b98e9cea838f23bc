"""The launch of the interpreter of programs on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

import torch
from torch import Tensor

from segloss_fast.ops._formula import triton_kernels
from segloss_fast.ops._formula.program import Program
from segloss_fast.ops._triton.launch import Launch, device_of


def launch(
    program: Program,
    rows: Tensor,
    arguments: Sequence[Tensor],
    levels: Sequence[float],
    loss: Tensor,
    grad: Tensor | None,
) -> None:
    """Write the loss, and the gradient if there is room for it; see evaluation.evaluate."""
    call = prepare(program, rows, arguments, levels, loss, grad)
    with device_of(rows):
        call()


def prepare(
    program: Program,
    rows: Tensor,
    arguments: Sequence[Tensor],
    levels: Sequence[float],
    loss: Tensor,
    grad: Tensor | None,
) -> Launch:
    """Return the launch."""
    steps, constants, weights = _resident(program, tuple(levels), rows.device)
    parts = [constants, *(argument.flatten() for argument in arguments)]
    first, size = program.first, program.size - program.first
    return Launch(
        triton_kernels.interpret,
        (1,),
        {
            "numbers": steps,
            "fixed": torch.cat(parts) if arguments else constants,
            "array": rows.new_empty(max(1, len(levels) * size)),
            "rows": rows,
            "weights": weights,
            "loss": loss,
            "grad": rows if grad is None else grad,
            "steps": program.values if grad is None else len(program.steps),
            "levels": len(levels),
            "count": program.rows[0],
            "width": program.rows[1] * program.rows[2],
            "first": first,
            "size": size,
            "loss_at": program.loss - first,
        },
        {"GRADIENT": grad is not None},
    )


@lru_cache(maxsize=256)
def _resident(
    program: Program, levels: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return steps, constants and the levels' weights on a device: copied at the first call."""
    numbers = list(chain.from_iterable(program.steps))
    wide = (program.constants or (0.0,), levels)
    with torch.inference_mode(False):
        steps = torch.tensor(numbers, dtype=torch.int32).to(device, non_blocking=True)
        constants, weights = (
            torch.tensor(values, dtype=torch.float64).to(device, non_blocking=True)
            for values in wide
        )
    return steps, constants, weights
