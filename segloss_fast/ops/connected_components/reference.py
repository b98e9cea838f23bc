"""The definition of connected_components, in plain PyTorch on any device."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from segloss_fast.ops._voxels.labels import can_hold

# Along how many axes the places of neighbours may differ.
CONNECTIVITIES = ("faces", "edges", "full")
UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # which torch can hardly compute with


def forward(
    labels: Tensor, differing: int, by_value: bool, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return components, their count, and the value of each.

    Every voxel of the foreground starts with its own place in the raster, and takes the least that
    its neighbours have as long as that changes anything. What is left is the place of each
    component's first voxel.

    Args:
        labels: ``[B, C, *S]``, by value C = 1.
        differing: Along how many axes the places of neighbours may differ.
        by_value: Whether only equal values connect.
        ignore_index: The label of voxels that are background, or None.

    Returns:
        int32 ``[B, C, *S]``, int32 ``[B, C]`` and, by value, int32 ``[B, K]``, else ``[B, 0]``.

    Raises:
        ValueError: If a value that connects is too large for int32.
    """
    if labels.numel() == 0:
        return (
            labels.new_zeros(labels.shape, dtype=torch.int32),
            labels.new_zeros(labels.shape[:2], dtype=torch.int32),
            labels.new_zeros((labels.shape[0], 0), dtype=torch.int32),
        )
    inside = foreground(labels, ignore_index)
    values = _codes(labels, inside) if by_value else inside
    first = _first_voxels(values, inside, differing)
    place = torch.arange(first[0, 0].numel(), device=labels.device)
    is_first = (first.flatten(2) == place) & inside.flatten(2)
    number = is_first.cumsum(2)
    count = number[:, :, -1].to(torch.int32)
    numbered = torch.where(inside.flatten(2), number.gather(2, first.flatten(2)), 0)
    components = numbered.view(labels.shape).to(torch.int32)
    value = labels.new_zeros((labels.shape[0], 0), dtype=torch.int32)
    if by_value:
        value = labels.new_zeros((labels.shape[0], int(count.max())), dtype=torch.int32)
        item, _, voxel = is_first.nonzero(as_tuple=True)
        value[item, number[item, 0, voxel] - 1] = values.flatten(2)[item, 0, voxel].to(torch.int32)
    return components, count, value


def foreground(labels: Tensor, ignore_index: int | None) -> Tensor:
    """Return which voxels are not background."""
    bits = as_signed(labels)
    inside = bits != 0
    if ignore_index is None:
        return inside
    if labels.dtype in UNSIGNED:
        width = 8 * labels.dtype.itemsize
        if not 0 <= ignore_index < 1 << width:
            return inside
        ignore_index -= ignore_index >> (width - 1) << width  # as its bits are read
    elif not can_hold(labels.dtype, ignore_index):
        return inside
    return inside & (bits != ignore_index)


def as_signed(labels: Tensor) -> Tensor:
    """Return unsigned integers as the signed ones of the same bits."""
    if labels.dtype not in UNSIGNED:
        return labels
    signed = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
    return labels.view(signed[labels.dtype])


def _codes(labels: Tensor, inside: Tensor) -> Tensor:
    """Return the values that connect, as int64."""
    codes = as_signed(labels).to(torch.int64)
    if labels.dtype in (torch.uint16, torch.uint32):
        codes = codes & ((1 << 8 * labels.dtype.itemsize) - 1)
    limits = torch.iinfo(torch.int32)
    wide = inside & ((codes < limits.min) | (codes > limits.max))
    if labels.dtype == torch.uint64:
        wide |= inside & (codes < 0)
    refuse_wide(bool(wide.any()))
    return codes


def refuse_wide(found: bool) -> None:
    """Raise ValueError if labels hold values that the record of components cannot."""
    if found:
        raise ValueError(
            "by value, labels must be 0, ignore_index or within the range of int32; got others"
        )


def _first_voxels(values: Tensor, inside: Tensor, differing: int) -> Tensor:
    """Return the place of each component's first voxel in the raster, int64; anything elsewhere."""
    space = values.shape[2:]
    count = space.numel()
    least = torch.arange(count, device=values.device).view(space).expand(values.shape).clone()
    steps = [
        step
        for step in itertools.product((-1, 0, 1), repeat=len(space))
        if 0 < sum(map(abs, step)) <= differing and step > (0,) * len(space)
    ]
    pairs = [(_shifted(space, step), _shifted(space, [-s for s in step])) for step in steps]
    touching = [(values[a] == values[b]) & inside[a] & inside[b] for a, b in pairs]
    while True:
        before = least.clone()
        for (a, b), touches in zip(pairs, touching, strict=True):
            for here, there in ((a, b), (b, a)):  # one after the other: the slices overlap
                lower = torch.minimum(least[here], least[there])
                least[here] = torch.where(touches, lower, least[here])
        # What a voxel finds is the component's, and so that of the place it had; and what stands at
        # the place it has is as far back, or further. Without these it would take as many rounds
        # as the longest way through a component has voxels.
        flat = least.flatten(2)
        flat = flat.scatter_reduce(2, before.flatten(2), flat, "amin")
        least = flat.gather(2, flat).view(values.shape)
        if torch.equal(least, before):
            return least


def _shifted(space: torch.Size, step: list[int] | tuple[int, ...]) -> tuple[slice, ...]:
    """Return which voxels have a neighbour at this step."""
    slices = (slice(max(0, -s), n - max(0, s)) for s, n in zip(step, space, strict=True))
    return (slice(None), slice(None), *slices)
