"""Masks and label maps for the tests of connected_components, and what scipy says of them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from segloss_fast import connected_components
from segloss_fast.ops.connected_components import CONNECTIVITIES
from tests.machines import Machine
from tests.ops.distance_transform_cases import DTYPES, INTEGERS, LAYOUTS, lay_out

# Around a word of 64 voxels, and one of 32.
WIDTHS = (1, 2, 3, 8, 15, 31, 32, 33, 63, 64, 65, 96, 127, 128, 130)
DENSITIES = (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.95, 1.0)


@dataclass(frozen=True)
class Case:
    """A call of connected_components.

    Attributes:
        labels: ``[B, C, *S]``, by value C = 1.
        connectivity: One of CONNECTIVITIES; ``"edges"`` of volumes only.
        by_value: As for the function.
        ignore_index: Likewise.
    """

    labels: Tensor
    connectivity: str
    by_value: bool = False
    ignore_index: int | None = None

    @property
    def differing(self) -> int:
        """Along how many axes the places of neighbours may differ."""
        return {"faces": 1, "edges": 2, "full": self.labels.dim() - 2}[self.connectivity]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What the raw operators take."""
        order = list(range(self.labels.dim() - 2))
        return self.labels, self.differing, self.by_value, self.ignore_index, order

    def __str__(self) -> str:
        labels = self.labels
        what = f"{list(labels.shape)} {labels.dtype} {labels.stride()} at {labels.storage_offset()}"
        return f"{what} {self.connectivity} by_value={self.by_value} {self.ignore_index}"


def by_scipy(mask: np.ndarray, differing: int) -> tuple[np.ndarray, int]:
    """Return the components of one mask, and how many there are."""
    structure = ndimage.generate_binary_structure(mask.ndim, differing)
    labels, count = ndimage.label(mask, structure)
    return labels, count


def by_scipy_of_values(values: np.ndarray, differing: int) -> tuple[np.ndarray, list[int]]:
    """Return the components of one label map, and their values: those of each value's mask.

    They are then numbered by their first voxels.
    """
    parts = np.zeros(values.shape, np.int64)
    for value in np.unique(values[values != 0]):
        found, _ = by_scipy(values == value, differing)
        parts += np.where(found > 0, found + parts.max(), 0)
    numbers, first = np.unique(parts, return_index=True)
    order = [place for place in np.sort(first) if parts.flat[place] != 0]
    renumbered = np.zeros(int(numbers.max()) + 1, np.int64)
    for number, place in enumerate(order, 1):
        renumbered[parts.flat[place]] = number
    return renumbered[parts], [int(values.flat[place]) for place in order]


def exact(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Return components, count and values, by scipy."""
    labels = case.labels
    wide = labels.double() if labels.is_floating_point() else labels.long()
    if case.ignore_index is not None:
        wide = torch.where(wide == case.ignore_index, torch.zeros_like(wide), wide)
    values = wide.numpy()
    components = np.zeros(values.shape, np.int64)
    count = np.zeros(values.shape[:2], np.int64)
    lists: list[list[int]] = []
    for index in np.ndindex(values.shape[:2]):
        if values[index].size == 0:
            lists.append([])
            continue
        if case.by_value:
            components[index], found = by_scipy_of_values(values[index], case.differing)
            count[index] = len(found)
            lists.append(found)
        else:
            components[index], count[index] = by_scipy(values[index] != 0, case.differing)
    most = max(map(len, lists), default=0)
    rows = [found + [0] * (most - len(found)) for found in lists]
    value = torch.tensor(rows, dtype=torch.int32).view(labels.shape[0], most)
    return torch.from_numpy(components), torch.from_numpy(count), value


def check(found: tuple[Tensor, Tensor, Tensor | None], case: Case) -> None:
    """Compare with scipy, bit for bit."""
    components, count, value = exact(case)
    assert found[0].dtype == found[1].dtype == torch.int32, case
    assert found[0].shape == case.labels.shape, case
    assert torch.equal(found[0].long(), components), case
    assert torch.equal(found[1].long(), count), case
    if case.by_value:
        assert found[2] is not None
        assert found[2].dtype == torch.int32, case
        assert torch.equal(found[2], value), case


def run(machine: Machine, case: Case) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return components, count and values of a problem by a machine, on the CPU."""
    if machine.family == "shim":  # whose kernels take axes in one order, in all of memory's
        components, count, value, wide = machine.step()(*case.arguments)
        assert not wide.item(), case
        return components, count, value
    found = connected_components(
        machine.place(case.labels),
        connectivity=case.connectivity,
        by_value=case.by_value,
        ignore_index=case.ignore_index,
        impl=machine.impl,
    )
    assert found.labels.device.type == machine.device
    return found.labels.cpu(), found.count.cpu(), None if found.value is None else found.value.cpu()


def compare(machine: Machine, case: Case) -> None:
    """Run a problem and compare with scipy."""
    check(run(machine, case), case)


def connectivities(axes: int) -> tuple[str, ...]:
    """Return the names that a raster of so many axes has."""
    return tuple(name for name in CONNECTIVITIES if name != "edges" or axes == 3)


def random_labels(
    shape: Sequence[int], dtype: torch.dtype, draw: random.Random, *, by_value: bool
) -> Tensor:
    """Return labels of some density, or values of some size, in pieces larger than a voxel."""
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    noise = torch.rand(tuple(shape), generator=generator)
    inside = noise < draw.choice(DENSITIES)
    if not by_value:
        return inside.to(dtype)
    most = draw.choice((1, 2, 5)) if dtype != torch.bool else 1
    values = torch.randint(1, most + 1, tuple(shape), generator=generator)
    if values.numel() and draw.random() < 0.6:  # runs
        values = values[..., :1].expand(values.shape) if draw.random() < 0.3 else values // 2 + 1
    return torch.where(inside, values, 0).to(dtype)


def random_case(draw: random.Random, *, voxels: int = 6000) -> Case:
    """Return a problem of at most about so many voxels."""
    axes, by_value = draw.choice((1, 2, 3)), draw.random() < 0.4
    width = draw.choice(WIDTHS)
    rows = max(1, min(12, int((voxels / width) ** (1 / max(1, axes - 1)))))
    space = [*(draw.randrange(1, rows + 1) for _ in range(axes - 1)), width]
    if draw.random() < 0.3:
        draw.shuffle(space)
    shape = (draw.choice((1, 2)), 1 if by_value else draw.choice((1, 2, 3)), *space)
    dtype = draw.choice((torch.bool, *INTEGERS) if by_value else DTYPES)
    labels = lay_out(random_labels(shape, dtype, draw, by_value=by_value), draw.choice(LAYOUTS))
    ignored = draw.choice((None, None, 0, 1, 2, -1, 300, 2**40))
    return Case(labels, draw.choice(connectivities(axes)), by_value, ignored)


def spiral(size: int) -> Tensor:
    """Return one arm that winds inwards, bool ``[1, 1, size, size]``: one component, far apart."""
    image = torch.zeros(size, size, dtype=torch.bool)
    top, bottom, left, right = 0, size - 1, 0, size - 1
    while top <= bottom and left <= right:
        image[top, left : right + 1] = True
        image[top : bottom + 1, right] = True
        image[bottom, left : right + 1] = True
        image[top + 2 : bottom + 1, left] = True
        if top + 2 <= bottom:
            image[top + 2, left : left + 2] = True
        top, bottom, left, right = top + 2, bottom - 2, left + 2, right - 2
    return image[None, None]


def comb(*size: int) -> Tensor:
    """Return teeth that only their last row or slice joins, bool ``[1, 1, *size]``."""
    mask = torch.zeros(size, dtype=torch.bool)
    mask[..., ::2] = True
    mask[-1] = True
    return mask[None, None]


def checkerboard(*size: int) -> Tensor:
    """Return every other voxel, bool ``[1, 1, *size]``: as many components as can be, or one."""
    places = sum(
        torch.arange(n).view(-1, *[1] * (len(size) - 1 - axis)) for axis, n in enumerate(size)
    )
    assert isinstance(places, Tensor)
    return (places % 2 == 0)[None, None]


def small_masks(*size: int) -> Tensor:
    """Return all masks of this size, bool ``[2^voxels, 1, *size]``."""
    voxels = torch.Size(size).numel()
    numbers = torch.arange(2**voxels)[:, None] >> torch.arange(voxels) & 1
    return numbers.bool().view(-1, 1, *size)


def worst_cases() -> list[Tensor]:
    """Return masks whose unions are many, or whose chains are long."""
    found = [spiral(67), comb(9, 130), comb(5, 7, 65), checkerboard(9, 66), checkerboard(5, 6, 65)]
    for mask in list(found):
        axes = range(2, mask.dim())
        found += [mask.flip(*some) for some in itertools.combinations(axes, 1)]
        found.append(mask.transpose(2, -1))
    return found
