"""What the benchmark of connected_components compares: masks and label maps, ours and the peers'.

The peers are connected-components-3d and, where components are not formed by value, scipy. Each is
imported where it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segloss_fast import connected_components

MASKS = ("lesions", "blobs", "half", "noise 30 %", "noise 50 %")
TISSUES = "14 tissues"
CLASSES = 14
LESIONS = 35
CONNECTIVITIES = {"faces": 6, "full": 26}


@dataclass(frozen=True)
class Case:
    """A volume whose components are found on the CPU.

    Attributes:
        mask: ``"lesions"``: 35 balls of radius 1 to 6; ``"blobs"``: 3 % of the volume, smooth;
            ``"half"``: half of it, smoother; ``"noise 30 %"`` of the voxels, at random, and
            ``"noise 50 %"``. ``"14 tissues"``: a label map of 14 classes, all of the volume,
            labelled by value.
        size: Voxels along each of three axes.
        connectivity: ``"full"`` or ``"faces"``.
    """

    mask: str
    size: tuple[int, int, int]
    connectivity: str = "full"
    device = "cpu"

    @property
    def by_value(self) -> bool:
        """Whether equal values connect."""
        return self.mask == TISSUES

    @property
    def kind(self) -> str:
        """The mask and what connects, like ``blobs, faces``."""
        return f"{self.mask}, {self.connectivity}"

    @property
    def name(self) -> str:
        """The case as an identifier."""
        mask = self.mask.replace(" %", "").replace(" ", "-")
        return f"{'x'.join(map(str, self.size))}-{mask}-{self.connectivity}"

    @property
    def shape(self) -> list[int]:
        """Of what is given to the operator."""
        return [1, 1, *self.size]

    @property
    def contenders(self) -> tuple[str, ...]:
        """Who can do it."""
        return ("native", "cc3d") if self.by_value else ("native", "cc3d", "scipy")


def make_labels(case: Case) -> Tensor:
    """Return the labels ``[*S]``: bool, by value uint8."""
    draw = np.random.default_rng(0)
    if case.mask == "lesions":
        return torch.from_numpy(_lesions(case.size, draw))
    if case.mask.startswith("noise"):
        density = int(case.mask.split()[1]) / 100
        return torch.from_numpy(draw.random(case.size, dtype=np.float32) < density)
    if case.mask == TISSUES:
        largest, labels = _smooth(case.size, 6.0, draw), np.zeros(case.size, np.uint8)
        for c in range(1, CLASSES):
            field = _smooth(case.size, 6.0, draw)
            labels[field > largest] = c
            np.maximum(largest, field, out=largest)
        return torch.from_numpy(labels)
    fraction, sigma = {"blobs": (0.03, 3.0), "half": (0.5, 6.0)}[case.mask]
    field = _smooth(case.size, sigma, draw)
    return torch.from_numpy(field > np.quantile(field, 1 - fraction))


def _smooth(size: tuple[int, ...], sigma: float, draw: np.random.Generator) -> Any:  # noqa: ANN401
    noise = draw.standard_normal(size, dtype=np.float32)
    return import_module("scipy.ndimage").gaussian_filter(noise, sigma)


def _lesions(size: tuple[int, ...], draw: np.random.Generator) -> Any:  # noqa: ANN401
    mask = np.zeros(size, bool)
    for _ in range(LESIONS):
        radius = int(draw.integers(1, 7))
        centre = [int(draw.integers(radius, n - radius)) for n in size]
        box = tuple(slice(c - radius, c + radius + 1) for c in centre)
        axes = np.ogrid[tuple(slice(-radius, radius + 1) for _ in size)]
        mask[box] |= sum(axis**2 for axis in axes) <= radius**2
    return mask


def contender(case: Case, name: str, labels: Tensor) -> Callable[[], Any]:
    """Return a function that finds the components, as an array or a tensor."""
    if name == "native":
        batch = labels[None, None]
        return lambda: (
            connected_components(
                batch, connectivity=case.connectivity, by_value=case.by_value, impl="native"
            ).labels
        )
    array = labels.numpy()
    if name == "cc3d":
        find = import_module("cc3d").connected_components
        neighbours = CONNECTIVITIES[case.connectivity]
        return lambda: find(array, connectivity=neighbours)
    ndimage = import_module("scipy.ndimage")
    differing = {"faces": 1, "full": 3}[case.connectivity]
    structure = ndimage.generate_binary_structure(3, differing)
    return lambda: ndimage.label(array, structure)[0]
