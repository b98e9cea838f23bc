"""How many components there are: what users know, and what the host has to read."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast._impl import recorded, transforms_active
from segloss_fast.losses._keywords import Component

Given = tuple[Tensor | None, Tensor | None, int | Tensor | None]  # components, cells, count


def count_of(bins: Tensor, count: Tensor | int | None, keywords: Component) -> int:
    """Return how many bins there are beside bin 0: what the rows have room for.

    Where nobody may look it is as many as there can be.

    Args:
        bins: The map.
        count: How many components each item and class has, if known; as a number, at most.
        keywords: With ``max_components``, which needs no look.

    Raises:
        RuntimeError: In the capture of a CUDA graph, which forbids to look.
    """
    most = keywords.max_components
    if isinstance(count, int):
        return count if most is None else min(count, most)
    if most is not None:
        return most
    if torch.compiler.is_compiling() or transforms_active() or recorded():
        sizes = bins.shape[2:]
        full = count is not None and keywords.connectivity in (None, "full", 3 ** len(sizes) - 1)
        most = 1
        for size in sizes:
            most = most * ((size + 1) // 2 if full else size)
        return most
    if bins.is_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "the host reads how many components there are, which the capture of a CUDA graph "
            "forbids; give max_components, or count for a map that is given"
        )
    counts = bins if count is None else count
    return max(int(counts.max()), 0) if counts.numel() else 0


def check_count(
    count: object, components: Tensor | None, cells: Tensor | None = None
) -> int | None:
    """Return how many components a given map has at most, as the user knows without a look at it.

    Args:
        count: A number, or numbers on the CPU of which the largest counts, or None.
        components: A map that is given, or None.
        cells: One of its cells, instead, or None.
    """
    if cells is not None and components is not None:
        raise ValueError("give components or cells, which are made of them, not both")
    if count is None:
        return None
    if cells is None and components is None:
        raise ValueError("count is of components or cells that are given, and none are")
    if isinstance(count, Tensor):
        if count.device.type != "cpu" or count.is_floating_point() or count.numel() == 0:
            raise ValueError(
                "count must be a number, or whole numbers on the CPU, got a tensor of shape "
                f"{list(count.shape)} of {count.dtype} on {count.device}"
            )
        count = int(count.max())
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"count must be an int, a tensor or None, got {type(count).__name__}")
    if count < 0:
        raise ValueError(f"count must be at least 0, got {count}")
    return count


def given_of(**maps: Tensor | int | None) -> dict[str, Tensor | int]:
    """Return the arguments of ``forward`` that are given."""
    return {name: value for name, value in maps.items() if value is not None}
