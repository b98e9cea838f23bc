"""The demo's data: the MNI152 head with four labels, its corruption, batches of training patches.

The image is the ICBM152 2009a template that nilearn's package carries: a T1-weighted MRI averaged
over 152 healthy adults, without the skull. It is a population average, not a patient: so free of
noise that plain thresholds would nearly solve it. Every image that a network or a threshold gets to
see is therefore corrupted as a scanner would: another contrast, uneven coil sensitivity, and noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from nilearn import datasets
from torch import Tensor
from torch.nn import functional as F

CLASSES = ("background", "other brain", "gray matter", "white matter")

# The held-out axial slices as a part of the height: from the top of the lateral ventricles upwards.
# Axial, because the template is left-right symmetric: half of a sagittal slab would have its mirror
# image among the training slices.
SLAB = (0.48, 0.65)

VALIDATION_SEED = 1000  # of the corruption that networks and thresholds are judged on
NOISE = 0.1  # standard deviation; the means of white and gray matter are 0.17 apart
CONTRAST = 0.35  # largest |log gamma|
FIELD = 0.15  # standard deviation of the log of the sensitivity
FIELD_MM = 60.0  # distance of the nodes between which the sensitivity is interpolated


@dataclass(frozen=True)
class Head:
    """The labelled head.

    Attributes:
        image: ``[X, Y, Z]`` float32 in [0, 1], not corrupted.
        labels: ``[X, Y, Z]`` int64, indices into ``CLASSES``.
        slab: The axial slices held out for validation.
        resolution: Side of a voxel in mm.
    """

    image: Tensor
    labels: Tensor
    slab: slice
    resolution: int


def load_head(resolution: int) -> Head:
    """Read the template and label every voxel; needs no network.

    A voxel of the brain is gray or white matter where the probability map of that tissue is above
    one half, and "other brain" (fluid, deep nuclei, partial volumes) elsewhere.

    Args:
        resolution: Side of a voxel in mm.
    """
    image = datasets.load_mni152_template(resolution=resolution).get_fdata(dtype=np.float32)
    gray = datasets.load_mni152_gm_template(resolution=resolution).get_fdata(dtype=np.float32)
    white = datasets.load_mni152_wm_template(resolution=resolution).get_fdata(dtype=np.float32)
    brain = datasets.load_mni152_brain_mask(resolution=resolution).get_fdata(dtype=np.float32) > 0.5
    labels = brain.astype(np.int64)
    labels[brain & (gray > 0.5)] = 2
    labels[brain & (white > 0.5)] = 3
    height = image.shape[2]
    return Head(
        image=torch.from_numpy(image).clamp(0, 1),  # resampling leaves values such as -1e-17
        labels=torch.from_numpy(labels),
        slab=slice(round(SLAB[0] * height), round(SLAB[1] * height)),
        resolution=resolution,
    )


def training_slices(head: Head) -> Tensor:
    """Return ``[Z]`` bool: the axial slices that are not held out."""
    training = torch.ones(head.image.shape[2], dtype=torch.bool)
    training[head.slab] = False
    return training


def corrupt(image: Tensor, resolution: int, generator: torch.Generator) -> Tensor:
    """Imitate a scan: random contrast, coil sensitivity, and the Rician noise of magnitude images.

    Args:
        image: ``[X, Y, Z]`` float32 in [0, 1].
        resolution: Side of a voxel in mm.
        generator: Source of randomness.

    Returns:
        ``[X, Y, Z]`` float32, at least 0.
    """
    gamma = torch.empty(1).uniform_(-CONTRAST, CONTRAST, generator=generator).exp()
    nodes = [max(2, round(side * resolution / FIELD_MM) + 1) for side in image.shape]
    log_field = FIELD * torch.randn(1, 1, *nodes, generator=generator)
    field = F.interpolate(log_field, image.shape, mode="trilinear", align_corners=True)[0, 0].exp()
    real, imaginary = NOISE * torch.randn(2, *image.shape, generator=generator)
    return torch.hypot(image**gamma * field + real, imaginary)


def sample_batch(
    head: Head, patch: tuple[int, int, int], size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cut random patches out of the training slices, flip and corrupt them.

    Patches alternate between below and above the slab and never touch it. Each is centred at a
    random voxel of the brain, as far as the borders allow.

    Args:
        head: The data.
        patch: Sides of a patch in voxels.
        size: Patches in the batch.
        generator: Source of randomness.

    Returns:
        Images ``[size, 1, *patch]`` float32 and labels ``[size, 1, *patch]`` int64.

    Raises:
        ValueError: If a patch does not fit.
    """
    images, labels = [], []
    for item in range(size):
        below, above = slice(0, head.slab.start), slice(head.slab.stop, None)
        block = (slice(None), slice(None), below if item % 2 else above)
        box = random_box(head.labels[block], patch, generator)
        flips = torch.randint(0, 2, (3,), generator=generator).nonzero().flatten().tolist()
        image = corrupt(head.image[block][box], head.resolution, generator)
        images.append(image.flip(flips))
        labels.append(head.labels[block][box].flip(flips))
    return torch.stack(images)[:, None], torch.stack(labels)[:, None]


def random_box(
    labels: Tensor, patch: tuple[int, int, int], generator: torch.Generator
) -> tuple[slice, slice, slice]:
    """Return a box of the size of a patch, around a random voxel of the brain where that fits."""
    if any(side > room for side, room in zip(patch, labels.shape, strict=True)):
        raise ValueError(
            f"patch must fit into the {list(labels.shape)} voxels by the slab, got {list(patch)}"
        )
    brain = labels.nonzero()
    center = brain[torch.randint(len(brain), (1,), generator=generator)][0].tolist()
    starts = [
        min(max(middle - side // 2, 0), room - side)
        for middle, side, room in zip(center, patch, labels.shape, strict=True)
    ]
    x, y, z = (slice(start, start + side) for start, side in zip(starts, patch, strict=True))
    return x, y, z


def dice_per_class(prediction: Tensor, labels: Tensor) -> list[float]:
    """Return the Dice coefficient of every class: 2 |A and B| / (|A| + |B|).

    Args:
        prediction: Class indices of any shape.
        labels: Class indices of the same shape.
    """
    scores = []
    for index in range(len(CLASSES)):
        ours, theirs = prediction == index, labels == index
        scores.append(float(2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())))
    return scores
