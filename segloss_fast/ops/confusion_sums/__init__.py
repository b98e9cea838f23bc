"""Soft confusion sums: how much of each class is predicted where each class is.

``confusion[l, c] = sum of w t_l p_c`` and ``target[l] = sum of w t_l`` over the voxels of an item,
with p the activated input, t the target and w the voxel weight (that of class l; 0 where ignored).
The diagonal is region_sums' tp. One pass over the input forward, one backward (several of more than
128 classes on a GPU); nothing of its size is kept. The Triton kernels need room for the partial
sums of their programs while the forward pass runs: 8 MB (from 89 classes on 1056 C (C + 1) bytes),
or 8 C (C + 1) bytes per item if that is more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast import _check
from segloss_fast._impl import resolve, transforms_active
from segloss_fast.ops._operator import preference
from segloss_fast.ops._voxels.checks import check_voxel_weight
from segloss_fast.ops._voxels.labels import marked
from segloss_fast.ops._voxels.maps import ACTIVATIONS
from segloss_fast.ops.confusion_sums import op, reference
from segloss_fast.ops.confusion_sums.graphs import check

__all__ = ["confusion_sums"]


def confusion_sums(
    input: Tensor,
    target: Tensor,
    *,
    activation: str = "softmax",
    voxel_weight: Tensor | None = None,
    ignore_index: int | None = None,
    impl: str = "auto",
) -> Tensor:
    """Return the sums ``[B, C, C + 1]``: for each class of the target those of p, and its own.

    Differentiable in ``input``; in a floating-point dense ``target`` and in ``voxel_weight``
    through the reference. Double backward is an error except in the reference.

    Args:
        input: ``[B, C, *S]``, floating point, any strides, C at least 2.
        target: As for :func:`segloss_fast.region_sums`.
        activation: ``"softmax"``, ``"sigmoid"`` or ``"probabilities"``.
        voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``, floating point, finite, any sign.
        ignore_index: Voxels with this class index do not count, not even if the input is NaN there.
        impl: ``"auto"``, ``"reference"``, ``"native"`` (CPU) or ``"triton"`` (GPU, not float64).

    Returns:
        float64 (float32 on devices without it).

    Raises:
        TypeError: If an argument's type or dtype is not one of those above.
        ValueError: If a shape, device or option is not, or if class indices lie outside [0, C) and
            are not ``ignore_index`` (on a GPU the sums become NaN, unless
            :class:`segloss_fast.debug` is on).
        RuntimeError: If ``impl`` names kernels that are not available for this call.
    """
    _check.check_option("activation", activation, ACTIVATIONS)
    _check.check_ignore_index(ignore_index)
    target = check(input, target, ignore_index)
    if voxel_weight is not None:
        check_voxel_weight(input, voxel_weight)
    others = [target] if voxel_weight is None else [target, voxel_weight]
    only_reference = transforms_active() or (
        torch.is_grad_enabled() and any(tensor.requires_grad for tensor in others)
    )
    candidates = () if only_reference else preference(input.device)
    chosen = resolve(
        impl,
        candidates,
        lambda name: (
            "the gradient of target and of voxel_weight, the transforms of torch.func and forward "
            "mode are served by the reference only"
            if only_reference
            else op.kernels.why_not(name, input.device, input.dtype)
        ),
        input,
    )
    if chosen != "reference":
        return op.call(input, target, voxel_weight, activation, ignore_index, chosen)
    sums, invalid = reference.forward(input, target, voxel_weight, activation, ignore_index)
    return marked(sums, invalid, input, target)
