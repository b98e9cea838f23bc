"""Masks for the tests of distance_transform, and what their distances are by definition."""

from __future__ import annotations

import numpy as np
import scipy.ndimage
import torch
from hypothesis import strategies as st
from torch import Tensor

from segloss_fast.ops.distance_transform import SIDES
from tests.helpers import impls

IMPLS = impls("distance_transform")
KINDS = ("noise", "dense", "sparse", "one", "hole", "ball", "box", "empty", "full")
TOLERANCE = 2e-6
EXACT = "donot_use_mm_for_euclid_dist"


def random_mask(shape: tuple[int, ...], kind: str, seed: int = 0) -> Tensor:
    """Return a bool mask ``[*S]`` of one of KINDS."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(shape, generator=generator)
    if kind in ("noise", "dense", "sparse"):
        return noise < {"noise": 0.5, "dense": 0.98, "sparse": 0.02}[kind]
    mask = torch.full(shape, kind == "full")
    if kind in ("one", "hole"):
        mask.flatten()[torch.randint(mask.numel(), (1,), generator=generator)] = True
        return mask if kind == "one" else ~mask
    if kind in ("ball", "box"):
        places = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
        middle = [int(torch.randint(n, (1,), generator=generator)) for n in shape]
        away = torch.stack([(x - m).abs() for x, m in zip(places, middle, strict=True)]).double()
        size = max(shape) * float(noise.flatten()[0]) / 2
        return (away.norm(dim=0) if kind == "ball" else away.amax(0)) <= size
    return mask


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, list[float]]:
    """Draw a mask ``[1, 1, *S]`` of up to 40 voxels an axis, and its spacing."""
    axes = draw(st.integers(1, 3))
    side = st.sampled_from((1, 2, 3, 5, 8, 13, 16, 17, 31, 33, 40)) | st.integers(1, 40)
    shape = tuple(draw(side) for _ in range(axes))
    mask = random_mask(shape, draw(st.sampled_from(KINDS)), draw(st.integers(0, 2**31)))
    spacing = draw(
        st.just([1.0] * axes) | st.lists(st.floats(0.05, 20), min_size=axes, max_size=axes)
    )
    return mask[None, None], spacing


def by_scipy(mask: Tensor, spacing: list[float], side: str) -> Tensor:
    """Return float64 distances of ``[B, C, *S]`` masks from scipy's, inf without a boundary."""
    if side == "outside":
        return by_scipy(~mask, spacing, "inside")
    if side == "inside":
        flat = mask.reshape(-1, *mask.shape[2:]).numpy()
        found = [
            scipy.ndimage.distance_transform_edt(one, sampling=spacing)
            if not one.all()
            else np.full(one.shape, np.inf)
            for one in flat
        ]
        return torch.from_numpy(np.stack(found)).view(mask.shape)
    inside, outside = (by_scipy(mask, spacing, name) for name in ("inside", "outside"))
    return inside + outside if side == "both" else outside - inside


def by_all_pairs(mask: Tensor, spacing: list[float]) -> dict[str, Tensor]:
    """Return float64 distances of a mask ``[*S]`` by side: the least over all pairs of voxels."""
    places = torch.cartesian_prod(
        *(w * torch.arange(n).double() for n, w in zip(mask.shape, spacing, strict=True))
    )
    places = places.view(mask.numel(), -1)
    inside = mask.flatten()
    pairs = torch.cdist(places[inside], places[~inside], compute_mode=EXACT)
    found = {}
    for name, own, axis in (("inside", inside, 1), ("outside", ~inside, 0)):
        least = (
            pairs.amin(axis)
            if pairs.shape[axis]
            else pairs.new_full((pairs.shape[1 - axis],), torch.inf)
        )
        found[name] = torch.zeros(mask.numel(), dtype=torch.float64)
        found[name][own] = least
    found["both"] = found["inside"] + found["outside"]
    found["signed"] = torch.where(inside, -found["inside"], found["outside"])
    return {side: values.view(mask.shape) for side, values in found.items()}


def assert_distances(found: Tensor, true: Tensor, note: object = "") -> None:
    """Assert float32 values within the tolerance of float64 ones, infinities in their places."""
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), true, rtol=TOLERANCE, atol=0, msg=lambda m: f"{note}: {m}"
    )


__all__ = [
    "IMPLS",
    "KINDS",
    "SIDES",
    "assert_distances",
    "by_all_pairs",
    "by_scipy",
    "problems",
    "random_mask",
]
