"""nearest_component as callers see it: the checks and the choice of implementation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, overload

import torch
from torch import Tensor

from segloss_fast import _check
from segloss_fast._impl import resolve
from segloss_fast.ops._operator import preference
from segloss_fast.ops.distance_transform import nearest_reference, op
from segloss_fast.ops.distance_transform.contract import (
    back_from,
    check_volumes,
    memory_order,
    no_kernel,
)
from segloss_fast.ops.distance_transform.spacing import check_ratio, per_axis

DTYPES = (*_check.INTEGER, torch.uint16, torch.uint32, torch.uint64)


@overload
def nearest_component(
    labels: Tensor,
    spacing: float | Iterable[float] | None = None,
    *,
    distance: Literal[False] = False,
    impl: str = "auto",
) -> Tensor: ...


@overload
def nearest_component(
    labels: Tensor,
    spacing: float | Iterable[float] | None = None,
    *,
    distance: Literal[True],
    impl: str = "auto",
) -> tuple[Tensor, Tensor]: ...


@overload
def nearest_component(
    labels: Tensor,
    spacing: float | Iterable[float] | None = None,
    *,
    distance: bool,
    impl: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]: ...


def nearest_component(
    labels: Tensor,
    spacing: float | Iterable[float] | None = None,
    *,
    distance: bool = False,
    impl: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Return for each voxel the label of the labelled voxel that is nearest to it.

    >>> labels = torch.tensor([[[0, 2, 0, 0, 0, 1, 0]]])
    >>> segloss_fast.nearest_component(labels).tolist()
    [[[2, 2, 2, 1, 1, 1, 1]]]

    That is the Voronoi partition by components, objects or seeds: each gets the cell of all voxels
    that are nearer to it than to any other. With the distances, labels expand by so much at most:

    >>> nearest, distance = segloss_fast.nearest_component(labels, distance=True)
    >>> torch.where(distance <= 1, nearest, 0).tolist()
    [[[2, 2, 2, 0, 1, 1, 1]]]

    Distances are Euclidean, between voxel centres, and exact. Of components that are equally far
    the smallest label wins, whatever the order of the axes or the direction: SciPy's indices
    (``distance_transform_edt(..., return_indices=True)``) decide such ties by the place instead.
    Distances are equal if their squares are, as exact numbers where the squared spacings are
    integer multiples of one number, like those of (3, 0.8, 0.8), and as float32 elsewhere: then
    labels whose distances differ by less than 2e-6 of them may stand for each other.

    Every item and channel is a label map of its own. One without a labelled voxel gets 0, and the
    distance +inf. Not differentiable: the results never require grad.

    Args:
        labels: ``[B, C, *S]``, S of one to three dimensions, any strides; bool or any integer
            dtype. 0 is no label; others must lie below 2^31, and instances of any kind will do.
        spacing: The distance between neighbouring voxels in any unit, which becomes the unit of the
            distances: one number, or one for each axis of S, between 1e-30 and 1e30, the largest at
            most 1e25 times the smallest. None is 1.
        distance: Whether to return the distances, too.
        impl: ``"auto"``, ``"reference"``, ``"native"`` or ``"triton"``. ``"auto"`` is the reference
            on a CPU without kernels: SciPy would decide ties otherwise.

    Returns:
        int32 ``[B, C, *S]``; with ``distance``, that and the distances, float32 ``[B, C, *S]``.
        Strides as those of :func:`segloss_fast.distance_transform`.

    Raises:
        TypeError: If an argument's type or dtype is not one of those above.
        ValueError: If the shape, the number of spacings, an option or its value is not; on the CPU
            and, in debug mode, on a GPU also if a label is negative, or above 2^31 - 1. On a GPU,
            where finding that out needs a synchronisation, and in the reference where torch.compile
            or torch.func traces it, such a label counts as 0.
        RuntimeError: If ``impl`` names kernels that are not available for this call.
    """
    check_volumes("labels", labels, DTYPES)
    _check.check_flag("distance", distance)
    spacings = per_axis(spacing, labels.dim() - 2, "label map")
    check_ratio(spacings)
    impl = resolve(
        impl,
        preference(labels.device),
        lambda name: op.kernels.why_not(name, labels.device) or no_kernel(),
        labels,
    )
    nearest, distances = _compute(labels, spacings, distance, impl)
    return (nearest, distances) if distance else nearest


def _compute(
    labels: Tensor, spacings: list[float], distance: bool, impl: str
) -> tuple[Tensor, Tensor]:
    if impl == "reference":
        return nearest_reference.forward(labels, spacings, distance)
    axes = memory_order(labels)
    if axes is None:
        return op.call_nearest(labels, spacings, distance, impl)
    spacings = [spacings[axis - 2] for axis in axes]
    nearest, distances = op.call_nearest(labels.permute(0, 1, *axes), spacings, distance, impl)
    back = back_from(axes)
    return nearest.permute(back), distances.permute(back) if distance else distances
