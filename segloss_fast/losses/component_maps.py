"""The components and cells of a target, as losses over components take them from a data loader."""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast._check import check_flag
from segloss_fast.losses._instances import component_map
from segloss_fast.losses._keywords import Spacing, check_connectivity, check_spacing
from segloss_fast.losses.fields import as_given, read_target, with_batch
from segloss_fast.ops.distance_transform import nearest_component


@torch.no_grad()
def component_labels(
    target: Tensor,
    classes: int | None = None,
    *,
    connectivity: str | int | None = None,
    include_background: bool = False,
    ignore_index: int | None = None,
    impl: str = "auto",
    batched: bool = True,
) -> Tensor:
    """Return the number of each voxel's component, as losses take it for ``components``.

    >>> segloss_fast.component_labels(torch.tensor([[0, 1, 1, 0, 1]]), classes=2)
    tensor([[[0, 1, 1, 0, 2]]], dtype=torch.int32)

    Components are those of :func:`segloss_fast.connected_components` of each class by itself,
    numbered from 1 on; 0 is in none. Not differentiable.

    Args:
        target: Class indices ``[B, *S]`` or ``[B, 1, *S]``, with ``classes`` given; or values
            ``[B, C, *S]``, above one half inside. ``[B, 1, S]`` is read as one axis of voxels.
        classes: Number of classes of class indices; None for values.
        connectivity: As of :func:`segloss_fast.connected_components`; None is ``"full"``.
        include_background: Whether class 0 has components, of several classes.
        ignore_index: Voxels with this class index, or value of one class, are in no component.
        impl: ``"auto"``, ``"reference"`` or ``"native"``.
        batched: Whether the target has a batch axis. With False it is one sample, ``[*S]`` or
            ``[1, *S]``, or values ``[C, *S]``, as in ``__getitem__`` of a data set, and so is the
            result.

    Returns:
        int32 ``[B, C, *S]``; ``[B, 1, *S]`` where one class alone has components: of one class, and
        of two without the background.

    Raises:
        TypeError: If an argument's type or dtype is not one of those above.
        ValueError: If a shape, the number of classes or an option is not; on the CPU also if a
            label is neither a class nor ``ignore_index``.
        RuntimeError: If ``impl`` names kernels that are not available here.
    """
    found = _labels(target, classes, connectivity, include_background, ignore_index, impl, batched)
    return as_given(found, batched)


@torch.no_grad()
def component_cells(
    target: Tensor,
    classes: int | None = None,
    *,
    spacing: Spacing | None = None,
    connectivity: str | int | None = None,
    include_background: bool = False,
    ignore_index: int | None = None,
    impl: str = "auto",
    batched: bool = True,
) -> Tensor:
    """Return the number of the component nearest to each voxel, as losses take it for ``cells``.

    >>> segloss_fast.component_cells(torch.tensor([[0, 1, 1, 0, 0, 1]]), classes=2)
    tensor([[[1, 1, 1, 1, 2, 2]]], dtype=torch.int32)

    :func:`segloss_fast.nearest_component` of :func:`component_labels`: 0 where an item has no
    component of the class. Not differentiable.

    Args:
        target: As for :func:`component_labels`.
        classes: As for :func:`component_labels`.
        spacing: The distance between neighbouring voxels in any unit: one number, or one per axis.
        connectivity: As for :func:`component_labels`.
        include_background: As for :func:`component_labels`.
        ignore_index: As for :func:`component_labels`. Ignored voxels are in a cell, too.
        impl: As for :func:`component_labels`.
        batched: As for :func:`component_labels`.

    Returns:
        int32, of the shape that :func:`component_labels` has.

    Raises:
        TypeError: As :func:`component_labels`.
        ValueError: As :func:`component_labels`, and if there is another number of spacings.
        RuntimeError: As :func:`component_labels`.
    """
    found = _labels(target, classes, connectivity, include_background, ignore_index, impl, batched)
    return as_given(nearest_component(found, check_spacing(spacing), impl=impl), batched)


def _labels(
    target: Tensor,
    classes: int | None,
    connectivity: str | int | None,
    include_background: bool,
    ignore_index: int | None,
    impl: str,
    batched: bool,
) -> Tensor:
    check_flag("include_background", include_background)
    check_connectivity(connectivity)
    target, dense, channels = read_target(with_batch(target, batched), classes, ignore_index)
    return component_map(
        target,
        channels,
        dense=dense,
        connectivity=connectivity,
        include_background=include_background,
        ignore_index=ignore_index,
        impl=impl,
    ).labels
