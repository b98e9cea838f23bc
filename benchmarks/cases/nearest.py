"""What the benchmark of nearest_component compares: label maps, our kernels, SciPy."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor

from benchmarks.cases.distances import Case
from segloss_fast import distance_transform, nearest_component

# What a case calls its mask; its components touch in any way. 35 boxes of up to 7 voxels an axis;
# 3 % of the volume, smooth; half of it, smooth; single voxels, 5 % of them, at random.
LABELS = ("lesions", "blobs", "half", "noise")
# Ours without and with distances; the distances alone, of the mask; SciPy's indices and a gather.
CONTENDERS = ("native", "with distance", "distance_transform", "scipy")


def make_labels(case: Case) -> Tensor:
    """Return the components ``[1, 1, *S]``, int32."""
    np, ndimage = import_module("numpy"), import_module("scipy.ndimage")
    draw = np.random.default_rng(0)
    if case.mask == "lesions":
        mask = np.zeros(case.size, dtype=bool)
        for _ in range(35):
            middle = [int(draw.integers(4, n - 4)) for n in case.size]
            radius = int(draw.integers(1, 4))
            mask[tuple(slice(m - radius, m + radius + 1) for m in middle)] = True
    elif case.mask == "noise":
        mask = draw.random(case.size, dtype=np.float32) < 0.05
    else:
        smooth = ndimage.gaussian_filter(draw.random(case.size, dtype=np.float32), 2.0)
        mask = smooth > np.quantile(smooth, {"blobs": 0.97, "half": 0.5}[case.mask])
    found, _ = ndimage.label(mask, np.ones([3] * len(case.size)))
    return torch.from_numpy(found.astype(np.int32))[None, None]


def contender(case: Case, name: str, labels: Tensor) -> Callable[[], object]:
    """Return a function that computes the nearest labels, or the distances alone."""
    if name == "native":
        return lambda: nearest_component(labels, case.spacing, impl="native")
    if name == "with distance":
        return lambda: nearest_component(labels, case.spacing, distance=True, impl="native")
    mask = labels > 0
    if name == "distance_transform":
        return lambda: distance_transform(mask, case.spacing, side="outside", impl="native")
    transform = import_module("scipy.ndimage").distance_transform_edt
    array, outside = labels[0, 0].numpy(), ~mask[0, 0].numpy()
    sampling = None if set(case.spacing) == {1.0} else case.spacing

    def by_scipy() -> object:
        places = transform(outside, sampling=sampling, return_distances=False, return_indices=True)
        return array[tuple(places)]

    return by_scipy
