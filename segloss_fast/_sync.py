"""With whom a loss adds its sums: the keyword ``sync``, and the ranks that it stands for.

Every collective has a size that no rank's share of the data can change, and begins with what all
ranks must have alike (:mod:`segloss_fast._collective`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from segloss_fast._check import FLOATING, check_flag
from segloss_fast._collective import (
    add_counts_over_ranks,
    exchange,
    gradient_over_ranks,
)
from segloss_fast._impl import transforms_active


def check_sync(sync: object, shards: object) -> None:
    """Raise TypeError unless ``sync`` says with whom, and ``shards`` is a flag."""
    check_flag("shards", shards)
    if isinstance(sync, bool):
        return
    if isinstance(sync, str):
        if not sync:
            raise ValueError("sync must be the name of a process group, got an empty one")
        return
    if not (dist.is_available() and isinstance(sync, dist.ProcessGroup)):
        raise TypeError(
            "sync must be True, False, 'auto', a process group or its name, "
            f"got {type(sync).__name__}"
        )


def check_pooled(sync: object, shards: bool, pooled: bool, how: str = "batch=True") -> None:
    """Raise ValueError where a loss per item is to be added over ranks that have other items.

    Args:
        sync: Of the loss.
        shards: Of the loss.
        pooled: Whether the loss pools the batch.
        how: The keyword that makes it do so.
    """
    if sync is not False and not shards and not pooled:
        raise ValueError(
            f"sync needs {how} for this loss: without it the loss is a mean over items, which needs"
            " no sync, because DistributedDataParallel averages over the ranks; if the ranks hold "
            "parts of the same items, give shards=True to a loss that takes it"
        )


@dataclass(frozen=True)
class Ranks:
    """The ranks that a loss adds its sums with, and what all of them must have alike.

    Attributes:
        group: The name of the process group; empty for the default one.
        dtype: Of the input.
        classes: Of the input.
        items: Of the input where ranks hold parts of the same ones, else -1.
        differentiable: Whether the input's gradient is recorded; the ranks meet in backward, too.
    """

    group: str
    dtype: torch.dtype
    classes: int
    items: int
    differentiable: bool

    def add(self, rows: Tensor, sums: str, *, first_of_many: bool = False) -> Tensor:
        """Return the rows added over the ranks, differentiable.

        Args:
            rows: Floating point, or counts below 2^53 (without a derivative).
            sums: What they are the sums of.
            first_of_many: Whether collectives follow that only ranks which agree can make.

        Raises:
            ValueError: If the ranks disagree. On CUDA the result is NaN instead, unless debug mode
                is on or others follow.
        """
        return exchange(rows, (sums, *self._alike()), self.group, first_of_many=first_of_many)

    def largest(self, values: Tensor, sums: str) -> Tensor:
        """Return the largest of each value over the ranks, without a derivative.

        Raises:
            ValueError: As :meth:`add`.
        """
        alike = (sums, *self._alike())
        return exchange(values.detach(), alike, self.group, largest=True)

    def add_more(self, counts: Tensor) -> Tensor:
        """Return integers added over the ranks, which have agreed before (see :meth:`add`)."""
        return add_counts_over_ranks(counts, self.group)

    def gradient(self, rows: Tensor, sums: str) -> Tensor:
        """Return rows that were computed from sums over the ranks, alike on every rank.

        Their gradient on the way back to this rank's share is that of :meth:`add`.
        """
        return gradient_over_ranks(rows, (sums, *self._alike()), self.group)

    def _alike(self) -> tuple[int, int, int, bool]:
        return FLOATING.index(self.dtype), self.classes, self.items, self.differentiable


def ranks_of(sync: bool | str | dist.ProcessGroup, shards: bool, input: Tensor) -> Ranks | None:
    """Return the ranks that ``sync`` stands for, or None where the loss is that of one process.

    Args:
        sync: Checked by :func:`check_sync`.
        shards: Likewise.
        input: ``[B, C, *S]``.

    Raises:
        RuntimeError: If torch.distributed is not initialised; with ``"auto"`` that means no ranks.
            Under a transform of torch.func, which would drop derivatives without a word.
    """
    if sync is False:
        return None
    if not (dist.is_available() and dist.is_initialized()):
        if sync == "auto":
            return None
        raise RuntimeError(
            f"sync={sync!r} adds the sums over ranks, but torch.distributed is not initialised; "
            "call torch.distributed.init_process_group first, or leave sync=False"
        )
    if transforms_active():
        raise RuntimeError(
            f"sync={sync!r} adds sums over ranks, for which transforms of torch.func (vmap, grad, "
            "jvp) have no rules; call the loss outside of them, or with sync=False"
        )
    name = ""
    if isinstance(sync, str):
        name = "" if sync == "auto" else sync
    elif not isinstance(sync, bool):
        name = sync.group_name
    gradient = input.requires_grad and torch.is_grad_enabled()
    return Ranks(name, input.dtype, input.shape[1], input.shape[0] if shards else -1, gradient)
