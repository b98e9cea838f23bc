"""Runs programs: on the CPU in C++, on CUDA in Triton."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segloss_fast._native import _C, why_no_triton
from segloss_fast.ops._formula.program import Program

ONE = (1.0,)
NATIVE = ("cpu",)  # devices where programs run in C++


def why_not(device: torch.device) -> str | None:
    """Return why no program runs on a device, None where they do."""
    if device.type in NATIVE:
        return None if _C is not None else "there are no native kernels"
    return why_no_triton("formula", device)


def evaluate(
    program: Program,
    rows: Tensor,
    arguments: Sequence[Tensor],
    levels: Sequence[float] = ONE,
    *,
    gradient: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Return the weighted sum of the formula over levels, and its gradient in the rows.

    Args:
        program: The formula.
        rows: ``[K, L B, C]``, float64, contiguous: those of the levels one after another.
        arguments: What the formula was traced with, of the same shapes.
        levels: A weight for each.
        gradient: Whether it is wanted.

    Returns:
        The value in the formula's dtype, and a gradient like the rows, or None.
    """
    count, items, classes = program.rows
    if rows.shape != (count, items * len(levels), classes) or not rows.is_contiguous():
        raise ValueError(f"the formula is one of other rows than {list(rows.shape)}")
    numbers = [_numbers(argument, rows) for argument in arguments] if arguments else []
    if [argument.numel() for argument in numbers] != list(program.arguments):
        raise ValueError("the formula is one of other arguments")
    grad = torch.empty_like(rows) if gradient else None
    dtype = torch.float32 if program.single else torch.float64
    if rows.device.type in NATIVE:
        value = program.native.run(
            rows.data_ptr(),
            [argument.data_ptr() for argument in numbers],
            levels,
            0 if grad is None else grad.data_ptr(),
        )
        return torch.scalar_tensor(value, dtype=dtype, device="cpu"), grad
    from segloss_fast.ops._formula.triton_launch import launch  # triton is optional

    loss = rows.new_empty((), dtype=dtype)
    launch(program, rows, numbers, levels, loss, grad)
    return loss, grad


def _numbers(argument: Tensor, rows: Tensor) -> Tensor:
    """Return an argument as contiguous float64 on the device of the rows."""
    return argument.to(rows.device, torch.float64, non_blocking=True).contiguous()
