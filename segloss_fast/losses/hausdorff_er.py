"""Hausdorff loss by erosion, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss_fast._check import check_number
from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._erosion import erosions, has_own_derivative
from segloss_fast.losses._keywords import PerItem, Voxel, VoxelKeywords
from segloss_fast.losses._module import Loss
from segloss_fast.losses._reduce import Part, finish, reduce_mean
from segloss_fast.losses.boundary import check_tensors
from segloss_fast.ops._voxels.labels import counted_voxels, is_class
from segloss_fast.ops._voxels.pieces import computed_again
from segloss_fast.ops.region_sums import RegionSums, region_sums


@loss_function
def hausdorff_er_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    alpha: float = 2.0,
    iterations: int = 10,
    **keywords: Unpack[VoxelKeywords],
) -> Tensor:
    """Functional form of :class:`HausdorffERLoss`."""
    checked = PerItem(**keywords).whole()
    _check(alpha, iterations)
    labels = check_tensors(input, target, voxel_weight, None, checked)
    counts = region_sums(
        input,
        target,
        activation=checked.activation,
        terms=("weight",),
        voxel_weight=voxel_weight,
        ignore_index=checked.ignore_index,
        impl=checked.impl,
    )
    rows = _rows(input, labels, voxel_weight, checked, alpha, iterations)
    sums = RegionSums(("eroded", "weight"), torch.cat([rows[None].to(counts.rows), counts.rows]))
    part = Part(("eroded", "weight"), lambda sums: reduce_mean(sums.rows[0], sums, checked))
    return finish([part], sums, input, checked, has_background_row=checked.include_background)


class HausdorffERLoss(Loss):
    """Hausdorff loss by erosion, the mean over voxels of ``sum_i i^alpha e_i`` per item and class.

    >>> loss = segloss_fast.HausdorffERLoss(activation="sigmoid", iterations=2)
    >>> loss(torch.tensor([[[-2.0, 2.0, 2.0, -2.0]]]), torch.tensor([[0, 0, 1, 1]]))
    tensor(0.2500)

    e_0 = (p - t)^2, and e_i follows from e_(i-1) by the mean over a voxel and its face neighbours
    (0 beyond the border), minus one half, cut off at 0, and stretched to [0, 1] per item and class
    where it is not constant: normalised as kornia 0.9's, whose value and gradient it has. An error
    that survives i erosions is about i voxels thick. The gradient goes through all erosions.
    Erosions are plain PyTorch on every device whatever ``impl`` says, one class at a time, and are
    computed again in backward instead of being kept. Voxels have no spacing here. Source: Karimi &
    Salcudean 2019, https://arxiv.org/abs/1904.10030.

    Args:
        alpha: Exponent of the number of the erosion, at least 0.
        iterations: Number of erosions, at least 1.
        **keywords: As in :class:`HausdorffDTLoss`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    def __init__(
        self, *, alpha: float = 2.0, iterations: int = 10, **keywords: Unpack[VoxelKeywords]
    ) -> None:
        PerItem(**keywords).whole()
        _check(alpha, iterations)
        super().__init__(hausdorff_er_loss, alpha=alpha, iterations=iterations, **keywords)


def _check(alpha: float, iterations: int) -> None:
    check_number("alpha", alpha, minimum=0)
    if not isinstance(iterations, int) or isinstance(iterations, bool):
        raise TypeError(f"iterations must be an int, got {type(iterations).__name__}")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")


def _rows(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    keywords: Voxel,
    alpha: float,
    iterations: int,
) -> Tensor:
    """Return the sums over voxels, ``[B, C]``."""
    classes = input.shape[1]
    x = input.to(torch.float64 if input.dtype == torch.float64 else torch.float32)
    dense = target.dim() == input.dim()
    counted = counted_voxels(input, target, keywords.ignore_index)
    if counted is not None:
        x = x.masked_fill(~counted, 0)  # so that a NaN there does not count
    p = x
    if keywords.activation != "probabilities":
        p = x.softmax(1) if keywords.activation == "softmax" else x.sigmoid()
    rows = []
    for c in range(classes):
        if c == 0 and not keywords.include_background:
            rows.append(p.new_zeros(p.shape[0]))
            continue
        if dense:
            t = target[:, c : c + 1].to(p.dtype)
        else:
            t = is_class(target, c, classes)[:, None].to(p.dtype)
        weight = counted
        if voxel_weight is not None:
            own = voxel_weight if voxel_weight.shape[1] == 1 else voxel_weight[:, c : c + 1]
            weight = own if counted is None else own.masked_fill(~counted, 0)
        one = p[:, c : c + 1], t, counted, weight, alpha, iterations
        if has_own_derivative():
            rows.append(_eroded(*one))
        else:
            rows.append(computed_again(_eroded, *one))
    return torch.stack(rows, 1)


def _eroded(
    p: Tensor,
    t: Tensor,
    counted: Tensor | None,
    weight: Tensor | None,
    alpha: float,
    iterations: int,
) -> Tensor:
    """Return one class's sums over voxels, ``[B]``; all maps are ``[B, 1, *S]``."""
    difference = p - t
    if counted is not None:
        difference = difference * counted
    if difference.numel() == 0:
        return difference.flatten(1).sum(1)
    total = erosions(difference, alpha, iterations, 1 / (2 * (p.dim() - 2) + 1))
    if weight is not None:
        total = total * weight
    return total.flatten(1).sum(1, dtype=torch.float32 if p.device.type == "mps" else torch.float64)
