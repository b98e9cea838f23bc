"""Soft skeletons of maps in [0, 1], for clDice.

With erosion the minimum over a voxel and its neighbours along the axes, and dilation the maximum
over a cube of three voxels a side, both cut at the border, img_0 the map, img_(j+1) = erode(img_j)
and delta_j = relu(img_j - dilate(img_(j+1))):

    skeleton_0 = delta_0,  skeleton_j = skeleton_(j-1) + relu(delta_j - skeleton_(j-1) delta_j)

after k iterations, j = 0 ... k. Source: Shit et al. 2021, https://arxiv.org/abs/2003.07311, as
in MONAI 1.6.1.

Where voxels are equal, as in background and saturated regions, the derivative is that of PyTorch's
pooling and minimum, and so MONAI's: of a window's equal voxels the first in memory takes the
gradient, and equal minima along different axes share it, half and half. A NaN stays one, and in
PyTorch and in Triton it spreads to the windows that hold it, natively to some of them only;
gradients near one have NaN too, but not all implementations at the same voxels.

Nothing but the map is kept between forward and backward. The native kernels' scratch memory has not
the map's size either: they sweep through its slices (of an image, its rows), forward's filters
running again in backward just ahead of the gradient's. It is 6 (k + 1)(k + 5) + 36 k + 68 bytes per
voxel of one slice, for each thread, in float32; no more threads work than have 2.5 times the map's
memory between them.

The Triton kernels work on whole planes, a plane being an item's class: in float32 with 16 bytes per
voxel of a plane in forward, and 6 (k + 2) in backward (in float64 32 and 10 (k + 2); of masks 4).
Planes go together as long as this stays below twice the map's memory and 32 MiB, or below 4 MiB;
larger ones go one after another.

The reference on the CPU computes finite values plane by plane as well, small ones together, and
keeps in backward 12 (k + 5) bytes per voxel of a plane in float32.
"""

from __future__ import annotations

from torch import Tensor

from segloss_fast._impl import transforms_active
from segloss_fast.ops.soft_skeleton import op, reference

__all__ = ["soft_skeleton"]


def soft_skeleton(values: Tensor, iterations: int, *, first: int = 0, impl: str = "auto") -> Tensor:
    """Return the soft skeleton of each item and class.

    Args:
        values: ``[B, C, *S]`` in [0, 1], S of one to three dimensions, float32 or float64, any
            strides; or bool masks.
        iterations: Number of erosions after the first, at least 0: half the width of the thickest
            structure.
        first: Skeletons of classes below it are 0.
        impl: ``"auto"``, ``"reference"``, ``"native"`` or ``"triton"``; where it names kernels that
            do not run here, others serve.

    Returns:
        ``[B, C, *S]`` of the same dtype. Differentiable where ``values`` is floating point.
    """
    chosen = op.kernels.choose(impl, values.device)
    if chosen != "reference" and not transforms_active():
        return op.call(values, iterations, first, chosen)
    return reference.forward(values, iterations, first)
