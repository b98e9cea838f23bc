"""A launch of a kernel, and the one that adds up partial sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops._triton import kept, sums
from segloss_fast.ops._triton.plan import Plan
from segloss_fast.ops._triton.views import Tensors

# Partial sums that a program of total() reads at once, and its warps: 16 doubles per thread.
TOTAL, TOTAL_WARPS = 8192, 16


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel, with everything that decides how it is compiled.

    Attributes:
        kernel: The jitted function.
        grid: Number of programs.
        arguments: By name, at run time.
        constants: By name, at compile time.
        warps: Warps per program.
        fusion: Whether products and sums may become one rounding. Not where two kernels must round
            alike.
        registers: That a thread has at most, None for what the compiler takes. Fewer let more
            programs run at once.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constants: dict[str, Any]
    warps: int = 4
    fusion: bool = True
    registers: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What the compiler is told."""
        told = {"num_warps": self.warps, "num_stages": 1, "enable_fp_fusion": self.fusion}
        return told if self.registers is None else {**told, "maxnreg": self.registers}

    def __call__(self) -> None:
        """Enqueue the kernel on the current stream."""
        kept.launch(self.kernel, self.grid, self.arguments, self.constants, self.options)


def device_of(tensor: Tensor) -> Any:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device_of(tensor)


def scratch(tensors: Tensors, plan: Plan, rows: int) -> tuple[Tensor, Tensor]:
    """Return room for partials ``[B * chunks, rows, C]`` and flags ``[B * chunks, 2]``, flat."""
    programs = tensors.batch * plan.chunks
    size = programs * rows * tensors.classes
    room = tensors.input.new_empty(size + 2 * programs, dtype=torch.float64)
    # In this order both are aligned to 16 bytes, whatever the size.
    return room[2 * programs :], room[: 2 * programs]


def total(
    tensors: Tensors,
    plan: Plan,
    order: Sequence[int],
    rows: Tensor,
    invalid: Tensor,
    partials: Tensor,
    flags: Tensor,
    most: int,
) -> Launch:
    """Return the launch that adds the partials to rows ``[K, B, C]`` (see sums.total_sums).

    Args:
        tensors: Of the call.
        plan: Of the kernel that leaves the partials.
        order: Where each of the partials' rows goes.
        rows: ``[K, B, C]``, written.
        invalid: ``[2]``, written.
        partials: See :func:`scratch`.
        flags: See :func:`scratch`.
        most: How many programs leave partials, whatever the number of voxels: it decides how the
            kernel is compiled.
    """
    order_low, order_high = sums.pack_order(order)
    classes = rows.shape[2]
    width = rows.shape[0] * classes
    # Four columns are what memory gives at a time, 32 bytes.
    at_once = min(TOTAL // 4, max(256, 1 << (most - 1).bit_length()))
    columns = TOTAL // at_once
    constants = {"K": rows.shape[0], "C": classes, "DENSE": tensors.unlabelled}
    constants |= {"LAYOUT": tensors.layout, "UNIT": plan.unit}
    constants |= {"ROWS": at_once, "COLUMNS": columns}
    return Launch(
        sums.total_sums,
        (tensors.batch, -(-width // columns)),
        {
            "rows": rows,
            "invalid": invalid,
            "partials": partials,
            "flags": flags,
            **tensors.view("t", plan),
            **tensors.sizes(plan),
            "batch": tensors.batch,
            "order_low": order_low,
            "order_high": order_high,
        },
        constants,
        TOTAL_WARPS,
    )
