"""Label maps for the tests of nearest_component, and what is nearest by definition."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from segloss_fast import nearest_component
from segloss_fast.ops.distance_transform.spacing import squares
from tests.machines import Machine
from tests.ops.distance_transform_cases import lay_out, random_shape

# Spacings, and integers that their squares are multiples of one number by; of none, None.
UNIT, THICK, DECIMAL, IRRATIONAL = "unit", "thick", "decimal", "irrational"
SPACINGS: dict[str, tuple[tuple[float, ...], tuple[int, ...] | None]] = {
    UNIT: ((1.0, 1.0, 1.0), (1, 1, 1)),
    THICK: ((3.0, 1.0, 1.0), (9, 1, 1)),
    DECIMAL: ((3.0, 0.8, 0.55), (3600, 256, 121)),
    IRRATIONAL: ((math.sqrt(2), 1.0, math.pi), None),
}
DENSITIES = (0.0, 0.002, 0.01, 0.1, 0.5, 1.0)
LARGEST = (2, 40, 3000, 70_000, 2**31 - 1)  # labels
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
LAYOUTS = ("contiguous", "transposed", "channels_last", "sliced", "strided", "expanded")
RELATIVE = 2e-6


@dataclass(frozen=True)
class Case:
    """A call of nearest_component.

    Attributes:
        labels: ``[B, C, *S]``.
        kind: A name in SPACINGS.
    """

    labels: Tensor
    kind: str = UNIT

    @property
    def spacing(self) -> list[float]:
        """Of the axes."""
        return list(SPACINGS[self.kind][0][: self.labels.dim() - 2])

    def __str__(self) -> str:
        labels = self.labels
        what = f"{list(labels.shape)} {labels.dtype} strides {labels.stride()}"
        return f"{what} up to {int(labels.max()) if labels.numel() else 0}, {self.kind}"


def call(machine: Machine, case: Case, *, distance: bool = True) -> tuple[Tensor, Tensor]:
    """Return labels and distances (none, unless wanted) of a problem by a machine, on the CPU."""
    if machine.family in ("shim", "interpreted"):  # strides as they are, which is all they know
        unit, weights = squares(case.spacing)
        nearest, distances, _ = machine.step("nearest")(case.labels, weights, unit, distance)
        return nearest, distances
    labels = machine.place(case.labels)
    distances = labels.new_empty(0)
    if distance:
        nearest, distances = nearest_component(
            labels, case.spacing, distance=True, impl=machine.impl
        )
    else:
        nearest = nearest_component(labels, case.spacing, impl=machine.impl)
    assert nearest.device.type == machine.device
    return nearest.cpu(), distances.cpu()


def run(machine: Machine, case: Case) -> tuple[Tensor, Tensor]:
    """Return the labels and the distances; the labels alone must be the same."""
    nearest, distances = call(machine, case)
    alone, none = call(machine, case, distance=False)
    assert torch.equal(nearest, alone), case
    assert none.numel() == 0
    return nearest, distances


def compare(machine: Machine, case: Case) -> None:
    """Run a problem and compare with the least over all pairs."""
    check(case, *run(machine, case))


def squares_to(case: Case, labels: Tensor, sources: Tensor) -> Tensor:
    """Return ``[voxels, sources]`` of one map: squared distances, integers where they can be."""
    weights = SPACINGS[case.kind][1] or [w * w for w in case.spacing]
    places = torch.cartesian_prod(*(torch.arange(n) for n in labels.shape)).view(-1, labels.dim())
    found = torch.zeros(len(places), len(sources), dtype=torch.float64)
    for axis in range(labels.dim()):
        found += weights[axis] * (places[:, None, axis] - sources[None, :, axis]).square()
    return found


def check(case: Case, nearest: Tensor, distance: Tensor) -> None:
    """Compare with the least over all pairs of a voxel and a labelled voxel."""
    labels = case.labels
    assert nearest.dtype == torch.int32, case
    assert distance.dtype == torch.float32, case
    assert nearest.shape == distance.shape == labels.shape, case
    for index in np.ndindex(tuple(labels.shape[:2])):
        check_one(case, labels[index].long(), nearest[index].flatten(), distance[index].flatten())


def check_one(case: Case, labels: Tensor, nearest: Tensor, distance: Tensor) -> None:
    sources = labels.nonzero()
    if len(sources) == 0:
        assert not nearest.any(), case
        assert (distance == torch.inf).all(), case
        return
    squares = squares_to(case, labels, sources)
    whose = labels[tuple(sources.T)][None]
    least = squares.amin(1, keepdim=True)
    integers = SPACINGS[case.kind][1]
    unit = 1.0 if integers is None else case.spacing[0] / math.sqrt(integers[0])
    true = unit * least[:, 0].sqrt()
    assert torch.equal(distance == 0, true == 0), case
    assert ((distance.double() - true).abs() <= RELATIVE * true).all(), case
    if integers is not None:
        smallest = torch.where(squares == least, whose, 2**40).amin(1)
        assert torch.equal(nearest.long(), smallest), case
        return
    own = torch.where(whose == nearest[:, None], squares, torch.inf).amin(1, keepdim=True)
    assert (own <= least * (1 + 2 * RELATIVE)).all(), case


def random_labels(
    shape: Sequence[int], density: float, largest: int, generator: torch.Generator
) -> Tensor:
    """Return int64 labels up to the largest, at random."""
    values = torch.randint(1, largest + 1, tuple(shape), generator=generator)
    return torch.where(torch.rand(tuple(shape), generator=generator) < density, values, 0)


def random_case(draw: random.Random, voxels: int = 3000, kinds: Sequence[str] = ()) -> Case:
    """Return labels of at most so many voxels, any dtype and strides."""
    shape = random_shape(draw, voxels)
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    largest = draw.choice(LARGEST)
    batch, channels = draw.choice(((1, 1), (2, 1), (1, 3), (2, 2)))
    labels = random_labels((batch, channels, *shape), draw.choice(DENSITIES), largest, generator)
    fitting = [dtype for dtype in INTEGERS if torch.iinfo(dtype).max >= largest]
    stored = lay_out_labels(labels.to(draw.choice(fitting)), draw.choice(LAYOUTS))
    return Case(stored, draw.choice(tuple(kinds) or tuple(SPACINGS)))


def sparse(shape: Sequence[int], largest: int, kind: str = UNIT) -> Case:
    """Return labels far apart: about one in 300 voxels, of int32."""
    generator = torch.Generator().manual_seed(0)
    return Case(random_labels((1, 1, *shape), 1 / 300, largest, generator).int(), kind)


def lay_out_labels(labels: Tensor, layout: str) -> Tensor:
    """Return the labels with other strides; what surrounds them in memory is labelled 1."""
    return lay_out(labels, layout)


def blobs(shape: Sequence[int], density: float, seed: int = 0) -> Tensor:
    """Return the components ``[1, 1, *S]`` of smooth noise, int32, numbered by scipy."""
    noise = np.random.default_rng(seed).random(tuple(shape))
    smooth = ndimage.gaussian_filter(noise, 1.0)
    mask = smooth > np.quantile(smooth, 1 - density)
    found, _ = ndimage.label(mask, np.ones([3] * len(shape)))
    return torch.from_numpy(found.astype(np.int32))[None, None]


def key_limit(shape: Sequence[int], weights: Sequence[int]) -> int:
    """Return the largest label that a key of 32 bits has room for, beside the squares."""
    most = sum(w * (n - 1) ** 2 for n, w in zip(shape, weights, strict=True))
    bits = 0
    while 2 * (most + 1) << bits + 1 < 2**32:
        bits += 1
    return (1 << bits) - 1
