"""Which voxels have the largest cross-entropy: weights that make TopK of a sum over all voxels.

The cross-entropy of each voxel is computed in one pass over the input and kept as a map
``[B, 1, *S]``. The k-th largest value is found without a sort: by the
leading digit of its bits, then by the digits after it, each counted in a pass over the map. Then
the map's values become weights in place: 1 above this threshold, 0 below, and for the voxels equal
to it the share that makes the sum k.

Beside the map the CPU's kernels keep counters per thread; those in Triton 8.3 KB and 16 bytes per
item, and move 24 bytes per voxel of the map (see triton_launch.py). PyTorch keeps several maps.

The weights are constants: the derivative of the sum over the k largest is that of a sum over
these voxels, wherever there is a derivative.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segloss_fast._impl import transforms_active
from segloss_fast.ops.hardest_voxels import op, reference
from segloss_fast.ops.hardest_voxels.reference import Rule

__all__ = ["Rule", "hardest_voxels"]


def hardest_voxels(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    rule: Rule,
    *,
    add: Callable[[Tensor], Tensor] | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Return the weights ``[B, 1, *S]`` of the hardest voxels, and their sum per item ``[B]``.

    Args:
        input: ``[B, C, *S]``, floating point, any strides.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``, or None.
        rule: How many there are, and of what cross-entropy.
        add: Adds counts over ranks (PyTorch then serves); None where there is one.
        impl: ``"auto"``, ``"reference"``, ``"native"`` or ``"triton"``; where it names kernels that
            do not run here, others serve, and PyTorch for float64 input in place of Triton.

    Returns:
        The weights, float32 (float64 for float64 input), contiguous, and the sums, float64 (float32
        on devices without it). Where classes exclude each other, labels out of range have weight 0.
    """
    input, target = input.detach(), target.detach()
    weight = None if voxel_weight is None else voxel_weight.detach()
    if add is None and not transforms_active():
        chosen = op.kernels.choose(impl, input.device, input.dtype)
        if chosen != "reference":
            return op.call(input, target, weight, rule, chosen)
    with torch.no_grad():
        return reference.forward(input, target, weight, rule, add)
