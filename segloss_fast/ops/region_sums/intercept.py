"""Who wants to answer calls of region_sums in its place, in this thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from segloss_fast.ops.region_sums.options import Options
from segloss_fast.ops.region_sums.record import RegionSums

# From input, target, voxel weight, options and impl to the sums, or None: let it do so itself.
Answer = Callable[[Tensor, Tensor, Tensor | None, Options, str], RegionSums | None]


class _Here(threading.local):
    answer: Answer | None = None


_here = _Here()


def answering() -> Answer | None:
    """Return who answers in this thread; nobody where torch.compile traces."""
    return None if torch.compiler.is_dynamo_compiling() else _here.answer


@contextmanager
def answered_by(answer: Answer) -> Iterator[None]:
    """Let somebody answer the calls of region_sums in a ``with`` block."""
    before = _here.answer
    _here.answer = answer
    try:
        yield
    finally:
        _here.answer = before
