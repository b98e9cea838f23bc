"""Synthetic lesions: spheres of very different size, darker than the brain that they are set into.

They are no disease. What is like one is that the small ones are many and the large ones have nearly
all the voxels, and that nothing but shape and place tells a small one from a fold of the cortex.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

import segloss_fast

RADII = (1.0, 7.0)  # in voxels; their logarithms are uniform
DARKER = (0.2, 0.45)  # what part of its brightness the brain loses
GAP = 2  # voxels between two lesions, which no connectivity bridges
TRIES = 1000  # to find a place


class Places:
    """The voxels of a brain, by how large a lesion may be around each.

    Args:
        brain: ``[X, Y, Z]`` bool.
    """

    def __init__(self, brain: Tensor) -> None:
        depth = segloss_fast.distance_transform(brain[None, None], side="inside")[0, 0]
        # Nearest to the surface first.
        self.depths, order = depth[brain].sort(stable=True)
        self.places = brain.nonzero()[order]

    def draw(self, radius: float, generator: torch.Generator) -> tuple[int, int, int]:
        """Return a random voxel around which a sphere lies within the brain.

        Args:
            radius: Of the sphere, in voxels.
            generator: Source of randomness.

        Raises:
            ValueError: If there is none.
        """
        first = int(torch.searchsorted(self.depths, radius, right=True))
        room = len(self.places) - first
        if room == 0:
            raise ValueError(f"brain must have room for spheres of radius {radius:.2f}, has none")
        x, y, z = self.places[first + int(torch.randint(room, (1,), generator=generator))].tolist()
        return x, y, z


def insert_lesions(
    image: Tensor, places: Places, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Set spheres into a brain, apart from one another.

    Args:
        image: ``[X, Y, Z]`` float32.
        places: Of the same brain.
        count: Number of lesions.
        generator: Source of randomness.

    Returns:
        The image with lesions, float32, and 1 where they are, uint8, both ``[X, Y, Z]``.

    Raises:
        ValueError: If there is no place for so many.
    """
    low, high = map(math.log, RADII)
    drawn = torch.empty(count).uniform_(low, high, generator=generator).exp()
    image, target = image.clone(), torch.zeros(image.shape, dtype=torch.uint8)
    for radius in drawn.sort(descending=True).values.tolist():  # large ones find room first
        center = _free_place(target, places, radius, generator)
        box = _box_around(center, math.floor(radius), target.shape)
        axes = [torch.arange(s.start, s.stop) - c for s, c in zip(box, center, strict=True)]
        x, y, z = torch.meshgrid(*axes, indexing="ij")
        ball = x**2 + y**2 + z**2 <= radius**2
        darker = torch.empty(1).uniform_(*DARKER, generator=generator)
        image[box] *= 1 - darker * ball
        target[box] |= ball
    return image, target


def _free_place(
    target: Tensor, places: Places, radius: float, generator: torch.Generator
) -> tuple[int, int, int]:
    for _ in range(TRIES):
        center = places.draw(radius, generator)
        if not target[_box_around(center, math.floor(radius) + GAP, target.shape)].any():
            return center
    raise ValueError(f"count must be less: {TRIES} tries found no place for a lesion")


def _box_around(
    center: tuple[int, int, int], reach: int, shape: torch.Size
) -> tuple[slice, slice, slice]:
    x, y, z = (
        slice(max(0, middle - reach), min(side, middle + reach + 1))
        for middle, side in zip(center, shape, strict=True)
    )
    return x, y, z
