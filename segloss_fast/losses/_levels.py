"""Levels of deep supervision: their sizes, weights and targets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from segloss_fast._check import check_number, check_option
from segloss_fast.losses._declare import plain

Levels = Tensor | Sequence[Tensor]
Maps = Tensor | Sequence[Tensor | None]
NNUNET = "nnunet"  # weights as in its trainer


def check_level_weights(weights: object) -> tuple[float, ...] | str | None:
    """Return the weights as Python's numbers; raise unless they are finite and not all 0."""
    if isinstance(weights, str):
        check_option("weights", weights, (NNUNET,))
        return weights
    if isinstance(weights, Tensor):
        weights = weights.tolist()
    weights = plain(weights)
    if weights is None:
        return None
    if not isinstance(weights, Sequence):
        raise TypeError(f"weights must hold a number per level, got {type(weights).__name__}")
    for weight in weights:
        check_number("weights", weight)
    if not any(weights):
        raise ValueError(f"weights must not all be 0, got {list(weights)}")
    return tuple(weights)


def as_list(name: str, tensors: object) -> list[Tensor]:
    if isinstance(tensors, Tensor):
        return [tensors]
    if not isinstance(tensors, (list, tuple)) or not all(isinstance(t, Tensor) for t in tensors):
        raise TypeError(f"{name} must be a tensor, or a list of them, got {type(tensors).__name__}")
    if not tensors:
        raise ValueError(f"{name} must hold at least one tensor")
    return list(tensors)


def check_sizes(
    given: Levels, inputs: Sequence[Tensor], targets: Levels, weights: Levels | None
) -> None:
    """Raise ValueError unless the first input fits the target, and no other one is larger.

    Targets of other sizes are resized for the smaller levels, which would hide a wrong shape.
    """
    first = inputs[0]
    target = targets if isinstance(targets, Tensor) else None
    if target is not None and not _fits(first.shape, target.shape):
        one = [first.shape[0], *first.shape[2:]]
        stacked = isinstance(given, Tensor) and first.dim() > 3
        head = first.shape[:1] + first.shape[2:]  # of inputs[:, 0]
        hint = ""
        if stacked and _fits(head, target.shape):
            hint = "; stacked heads [B, L, C, *S] go in as inputs.unbind(1)"
        raise ValueError(
            f"targets must be {one}, {[one[0], 1, *one[1:]]} or {list(first.shape)}, as the first "
            f"of inputs, {list(first.shape)}, got {list(target.shape)}{hint}"
        )
    weight = weights if isinstance(weights, Tensor) else None
    shared = torch.Size((first.shape[0], 1, *first.shape[2:]))
    if weight is not None and weight.shape not in (shared, first.shape):
        raise ValueError(
            f"voxel_weights must be {list(shared)} or {list(first.shape)}, as the first of inputs, "
            f"got {list(weight.shape)}"
        )
    for level, (before, x) in enumerate(pairwise(inputs), 1):
        sizes = zip(before.shape[2:], x.shape[2:], strict=False)
        if x.dim() != before.dim() or any(small > large for large, small in sizes):
            raise ValueError(
                f"inputs must be ordered by size, the largest first, got {list(x.shape)} as "
                f"inputs[{level}] after {list(before.shape)}"
            )


def _fits(input: Sequence[int], target: Sequence[int]) -> bool:
    """Whether a target has the shape that a loss of one such input asks for."""
    batch, _, *size = input
    return list(target) in ([batch, *size], [batch, 1, *size], list(input))


def level_weights(levels: int, weights: Sequence[float] | str | None) -> list[float]:
    """Return the weights, or 1, 1/2, 1/4, ... normalised to the sum 1; nnU-Net's end with 0."""
    if weights is not None and not isinstance(weights, str):
        return list(weights)
    found = [0.5**level for level in range(levels)]
    if weights == NNUNET and levels > 1:
        found[-1] = 0.0
    return [weight / sum(found) for weight in found]


def per_level(
    name: str, tensors: Levels, inputs: Sequence[Tensor], used: Sequence[int]
) -> list[Tensor]:
    """Return a tensor for each level that counts: as given, or one resized."""
    if isinstance(tensors, Tensor):
        return [_nearest(tensors, inputs[level].shape[2:]) for level in used]
    given = as_list(name, tensors)
    if len(given) != len(inputs):
        raise ValueError(f"{name} must hold {len(inputs)} tensors, one per input, got {len(given)}")
    return [given[level] for level in used]


def _nearest(tensor: Tensor, size: Sequence[int]) -> Tensor:
    """Return the values nearest to the centres of the voxels of another size.

    A view where each side is a multiple of the new one. What cannot be resized is returned as it
    is, for the loss to name what it expected. A batch without items is resized as any other.
    """
    first = tensor.dim() - len(size)
    if first not in (1, 2):
        return tensor
    for axis, new in enumerate(size, first):
        old = tensor.shape[axis]
        if 0 in (old, new):
            continue
        step = old // new
        if old == step * new:
            index = (*[slice(None)] * axis, slice(step // 2, None, step))
            tensor = tensor[index]
        else:
            centres = (2 * torch.arange(new, device=tensor.device) + 1) * old // (2 * new)
            tensor = tensor.index_select(axis, centres)
    return tensor


def maps_of(name: str, maps: object, levels: int) -> list[Tensor | None]:
    """Return a map, or None, for each level; a tensor alone is the first level's.

    Raises:
        TypeError: If it is neither a tensor nor a list of tensors and None.
        ValueError: If there is another number of them than of levels.
    """
    if isinstance(maps, Tensor):
        return [maps, *[None] * (levels - 1)]
    if not isinstance(maps, (list, tuple)):
        raise TypeError(f"{name} must be a tensor, or a list of them, got {type(maps).__name__}")
    for given in maps:
        if not (given is None or isinstance(given, Tensor)):
            raise TypeError(f"{name} must hold tensors or None, got {type(given).__name__}")
    if len(maps) != levels:
        raise ValueError(
            f"{name} must hold {levels} tensors or None, one per input, got {len(maps)}"
        )
    return list(maps)
