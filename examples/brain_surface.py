"""The boundary error of a labelling: the 95th percentile of the distance between surfaces."""

from __future__ import annotations

import torch
from torch import Tensor

import segloss_fast

PERCENTILE = 0.95


def surface(mask: Tensor) -> Tensor:
    """Return the voxels of a mask that have a face neighbour outside of it or of the volume.

    Args:
        mask: ``[X, Y, Z]`` bool.
    """
    padded = torch.nn.functional.pad(mask, [1] * 6)
    core = mask.clone()
    for axis in range(3):
        for shift in (-1, 1):
            core &= padded.roll(shift, axis)[1:-1, 1:-1, 1:-1]
    return mask & ~core


def surface_error(prediction: Tensor, truth: Tensor, spacing: float = 1.0) -> float:
    """Return the symmetric surface distance at the 95th percentile.

    Of the distances from each voxel of one surface to the nearest of the other the percentile is
    taken, in both directions, and the larger is returned: MONAI's ``compute_hausdorff_distance``
    with ``percentile=95``. NaN where one of the two has no voxel.

    Args:
        prediction: ``[X, Y, Z]`` bool.
        truth: ``[X, Y, Z]`` bool.
        spacing: Side of a voxel, whose unit is the result's.
    """
    ours, theirs = surface(prediction), surface(truth)
    if not ours.any() or not theirs.any():
        return float("nan")
    both = torch.stack([~theirs, ~ours])[None]
    to_theirs, to_ours = segloss_fast.distance_transform(both, spacing)[0]
    return max(
        float(torch.quantile(distance, PERCENTILE))
        for distance in (to_theirs[ours], to_ours[theirs])
    )


def error_per_class(
    prediction: Tensor, labels: Tensor, classes: int, spacing: float
) -> list[float]:
    """Return the surface error of every class.

    Args:
        prediction: Class indices ``[X, Y, Z]``.
        labels: Class indices ``[X, Y, Z]``.
        classes: Number of classes.
        spacing: Side of a voxel.
    """
    return [surface_error(prediction == c, labels == c, spacing) for c in range(classes)]
