"""How far the structure of a map around a voxel is from that of a target.

With mu and sd the mean and the standard deviation over a window of weights g, a Gaussian of the
distance to the voxel cut to ``window_size`` voxels along each axis, and what lies beyond the border
0, as in a convolution:

    e = |(t - mu_t + c) / (sd_t + c) - (p - mu_p + c) / (sd_p + c)|

Where all of a window is equal, sd has no derivative; it is taken as 0. Source: Zhao et al. 2019,
https://arxiv.org/abs/1910.08711.

Backward computes the windows again. The kernels on the CPU sweep through the slices of a map and
keep some of them: about 56 window_size bytes per voxel of a slice, for each thread, in float32.
Those in Triton take a plane (item and class) at a time, or as many as 64 MB hold, and keep moments
of all its voxels: in float32 16 bytes per voxel of a plane (8 of an image), and 32 (24) in
backward. There is no CUDA C++. Elsewhere PyTorch computes the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast._impl import transforms_active
from segloss_fast.ops.structural_error import op, reference
from segloss_fast.ops.structural_error.reference import MAX_WINDOW

__all__ = ["MAX_WINDOW", "structural_error"]


def structural_error(
    values: Tensor,
    target: Tensor,
    *,
    window_size: int,
    sigma: float,
    constant: float,
    first: int = 0,
    impl: str = "auto",
) -> Tensor:
    """Return e of every voxel, ``[B, C, *S]`` in the dtype of ``values``.

    Differentiable in ``values``.

    Args:
        values: p, ``[B, C, *S]``, S of one to three dimensions, float32 or float64, any strides.
        target: t, ``[B, C, *S]`` of any real dtype, without a gradient.
        window_size: An odd number of voxels, at most MAX_WINDOW.
        sigma: Of the window, in voxels, greater than 0.
        constant: c, greater than 0.
        first: Errors of classes below it are 0.
        impl: ``"auto"``, ``"reference"``, ``"native"`` or ``"triton"``; where it names kernels that
            do not run here, those of ``"auto"`` do.
    """
    options = window_size, float(sigma), float(constant), first
    chosen = op.kernels.choose(impl, values.device, values.dtype, target.dtype)
    needs_reference = transforms_active() or (torch.is_grad_enabled() and target.requires_grad)
    if chosen == "reference" or needs_reference:
        return reference.forward(values, target, *options)
    return op.call(values, target, *options, chosen)
