"""distance_transform by SciPy: where there are no kernels, and SciPy is installed.

Its transform is exact and linear in the voxels; the definition in plain PyTorch compares every
voxel of a line with every other one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops._operator import Implementation


class Scipy(Implementation):
    """SciPy's transform, for impl="auto" alone."""

    name = "scipy"
    devices = ("cpu",)

    def why_not(self, primitive: str, device: torch.device) -> str | None:
        if device.type != "cpu":
            return "SciPy computes on the CPU"
        if torch.compiler.is_compiling():
            return "torch.compile does not see into SciPy"
        return None if _installed() else "SciPy is not installed"

    def detail(self, device: str) -> str:
        return f"SciPy {version('scipy')}"

    def step(self, primitive: str, name: str) -> Callable[..., Any]:
        return forward


@functools.cache
def _installed() -> bool:
    return find_spec("scipy") is not None


def forward(mask: Tensor, spacing: Sequence[float], side: str, squared: bool) -> Tensor:
    """Return the distances ``[B, C, *S]``, float32, contiguous; arguments as of the reference."""
    inside = mask != 0
    out = inside.new_empty(mask.shape, dtype=torch.float32)
    for own, place in zip(inside.flatten(0, 1), out.flatten(0, 1), strict=True):
        place.copy_(_of_one(own, spacing, side, squared))
    return out


def _of_one(inside: Tensor, spacing: Sequence[float], side: str, squared: bool) -> Tensor:
    """Return the distances of one mask ``[*S]``, float64."""
    if side == "inside":
        return _distance(inside, spacing, squared)
    outside = _distance(~inside, spacing, squared)
    if side == "outside":
        return outside
    within = _distance(inside, spacing, squared)
    return outside - within if side == "signed" else outside + within


def _distance(own: Tensor, spacing: Sequence[float], squared: bool) -> Tensor:
    """Return the distance to the nearest voxel that is not ``own``, 0 at those."""
    from scipy.ndimage import distance_transform_edt  # optional, and slow to import

    if bool(own.all()):  # SciPy's result has no meaning then
        return own.new_full(own.shape, torch.inf, dtype=torch.float64)
    found = torch.from_numpy(distance_transform_edt(own.numpy(), sampling=spacing))
    return found.square_() if squared else found
