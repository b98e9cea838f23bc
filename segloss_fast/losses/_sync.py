"""Adds sums over the ranks of a process group, with the gradient that DDP expects."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d


class _AddOverRanks(torch.autograd.Function):
    """All-reduce in both directions.

    Every rank computes the same loss L of the same global sums. The gradient of rank r's input
    through them is its share of dL; the backward all-reduce makes it W times that, for W ranks, so
    that DDP's mean over the ranks gives the global gradient exactly.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: dist.ProcessGroup | None) -> Tensor:  # noqa: ANN401
        ctx.group = group
        total = rows.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        total = grads[0].clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


def add_over_ranks(rows: Tensor, sync: bool | str | dist.ProcessGroup) -> Tensor:
    """Return the rows added over the ranks of the group (True: the default one; or its name).

    Raises:
        RuntimeError: If torch.distributed is not initialised, or has no group of that name.
    """
    return _AddOverRanks.apply(rows, _group(sync))  # type: ignore[no-any-return,no-untyped-call]


def largest_over_ranks(values: Tensor, sync: bool | str | dist.ProcessGroup) -> Tensor:
    """Return the largest of each value over the ranks, without a derivative.

    Raises:
        RuntimeError: As :func:`add_over_ranks`.
    """
    largest = values.detach().clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=_group(sync))
    return largest


def _group(sync: bool | str | dist.ProcessGroup) -> dist.ProcessGroup | None:
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            f"sync={sync!r} adds the sums over ranks, but torch.distributed is not initialised; "
            "call torch.distributed.init_process_group first, or leave sync=False"
        )
    if isinstance(sync, str):
        return distributed_c10d._resolve_process_group(sync)  # type: ignore[attr-defined,arg-type]
    return None if isinstance(sync, bool) else sync
