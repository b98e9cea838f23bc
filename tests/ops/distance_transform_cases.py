"""Masks for the tests of distance_transform, and what scipy says of them in float64."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from segloss_fast.ops.distance_transform import reference
from tests.machines import Machine

SIDES = ("inside", "outside", "both", "signed")
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DTYPES = (torch.bool, *INTEGERS, *FLOATS)
LAYOUTS = ("contiguous", "transposed", "channels_last", "sliced", "strided", "expanded")
# Around a thread's strip of 16, a warp's 32 columns, a block's rows.
SIZES = (1, 1, 2, 3, 5, 7, 8, 13, 15, 16, 17, 24, 31, 32, 33, 36, 40)
DENSITIES = (0.0, 1.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
SPACINGS = (0.3, 0.8, 1.0, 2.0, 2.5, 30.0)
RELATIVE = 2e-6


@dataclass(frozen=True)
class Case:
    """A call of distance_transform.

    Attributes:
        mask: ``[B, C, *S]``.
        spacing: One per axis of S.
        side: One of SIDES.
        squared: Whether squares are wanted.
    """

    mask: Tensor
    spacing: Sequence[float]
    side: str
    squared: bool = False

    def __str__(self) -> str:
        mask = self.mask
        what = f"{list(mask.shape)} {mask.dtype} strides {mask.stride()} at {mask.storage_offset()}"
        return f"{what} {list(self.spacing)} {self.side} squared={self.squared}"


def to_other_side(own: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Return each own voxel's distance to the nearest other one, 0 at those."""
    if own.all():  # scipy has no answer for these
        return np.full(own.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(own, sampling=list(spacing)))


def exact(case: Case) -> Tensor:
    """Return the true distances, float64."""
    inside = (case.mask != 0).numpy()
    found = np.zeros(inside.shape)
    power = 2 if case.squared else 1
    for index in np.ndindex(inside.shape[:2]):
        own = inside[index]
        within = to_other_side(own, case.spacing) ** power
        without = to_other_side(~own, case.spacing) ** power
        sides = {"inside": within, "outside": without, "both": within + without}
        # Not their difference: both are infinite where a mask has no voxel on the other side.
        sides["signed"] = np.where(own, -within, without)
        found[index] = sides[case.side]
    return torch.from_numpy(found)


def check(result: Tensor, case: Case) -> None:
    """Compare with scipy; squares with unit spacing must be exact integers."""
    assert result.dtype == torch.float32, case
    assert result.shape == case.mask.shape, case
    assert result.is_contiguous(), case
    true = exact(case)
    there = true.isfinite()
    assert torch.equal(result[~there].double(), true[~there]), case
    difference = (result.double() - true).abs()[there]
    if case.squared and set(case.spacing) == {1.0} and bool((true[there].abs() < 2**24).all()):
        assert torch.equal(result[there].double(), true[there].round()), case
    assert bool((difference <= RELATIVE * true[there].abs()).all()), case


def run(machine: Machine, case: Case) -> Tensor:
    """Return the distances by a machine, on the CPU."""
    spacing = list(case.spacing)
    if machine.impl == "reference":
        return reference.forward(case.mask, spacing, case.side, case.squared)
    side = SIDES.index(case.side)
    found: Tensor = machine.step()(machine.place(case.mask), spacing, side, case.squared)
    assert found.device.type == machine.device
    return found.cpu()


def compare(machine: Machine, case: Case) -> None:
    """Run a problem and compare with scipy."""
    check(run(machine, case), case)


def lay_out(mask: Tensor, layout: str) -> Tensor:
    """Return the mask (that of the first item, if expanded) with other strides.

    What surrounds its elements in memory is nonzero, so that reading it shows in the result.
    """
    shape = mask.shape
    if layout == "expanded":
        return mask[:1].expand(shape)
    if layout == "transposed":
        return mask.new_empty(shape[::-1]).permute(*reversed(range(mask.dim()))).copy_(mask)
    if layout == "channels_last":
        return mask.new_empty(shape[0], *shape[2:], shape[1]).movedim(-1, 1).copy_(mask)
    if layout == "sliced":
        around = mask.new_ones([size + 3 for size in shape])
        return around[tuple(slice(1, size + 1) for size in shape)].copy_(mask)
    if layout == "strided":
        return mask.new_ones((*shape[:-1], 2 * shape[-1]))[..., 1::2].copy_(mask)
    return mask.clone()


def random_values(inside: Tensor, dtype: torch.dtype, draw: random.Random) -> Tensor:
    """Return a mask of this dtype: zeros of either sign outside, strange values inside."""
    if dtype == torch.bool:
        return inside.clone()
    if not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        return inside.to(dtype) * draw.choice((1, limits.min or 2, limits.max))
    value = draw.choice((1.0, -0.5, torch.nan, torch.inf, torch.finfo(dtype).smallest_normal))
    zero = torch.tensor(draw.choice((0.0, -0.0)), dtype=dtype)
    return torch.where(inside, torch.tensor(value, dtype=dtype), zero)


def random_shape(draw: random.Random, voxels: int) -> tuple[int, ...]:
    """Return sizes of one to three axes."""
    while True:
        shape = tuple(draw.choice(SIZES) for _ in range(draw.choice((1, 2, 2, 3, 3, 3))))
        if np.prod(shape) <= voxels:
            return shape


def random_case(draw: random.Random, voxels: int = 20_000) -> Case:
    """Return a mask of at most so many voxels, and options."""
    shape = random_shape(draw, voxels)
    batch, channels = draw.choice(((1, 1), (2, 1), (1, 3), (2, 2)))
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    inside = torch.rand((batch, channels, *shape), generator=generator) < draw.choice(DENSITIES)
    if draw.random() < 0.3:  # a ball, or what surrounds it
        inside = ball(shape, draw.uniform(0.1, 0.45), draw).expand_as(inside) ^ (inside[:1, :1])
    values = lay_out(random_values(inside, draw.choice(DTYPES), draw), draw.choice(LAYOUTS))
    unit = draw.random() < 0.5
    spacing = [1.0 if unit else draw.choice(SPACINGS) for _ in shape]
    return Case(values, spacing, draw.choice(SIDES), draw.random() < 0.5)


def ball(shape: Sequence[int], radius: float, draw: random.Random) -> Tensor:
    """Return the voxels near the middle, with the radius as a part of the longest axis."""
    square = torch.zeros(())
    for size in shape:
        place = torch.arange(size) - size / 2 - draw.uniform(-2, 2)
        square = square[..., None] + place.square()
    return square < (radius * max(shape)) ** 2


def seeds(shape: Sequence[int], count: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Return a mask ``[1, 1, *S]`` with so many voxels outside, and everything else inside."""
    total = int(np.prod(shape))
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(total, dtype=dtype)
    mask[torch.randperm(total, generator=generator)[:count]] = 0
    return mask.view(1, 1, *shape)


def variants(case: Case) -> list[Case]:
    """Return the case with each side, and squared."""
    return [*(replace(case, side=side) for side in SIDES), replace(case, squared=not case.squared)]
