"""The fields of a target that boundary losses read, to be computed once, as in a data loader.

Each goes to its loss as ``target_field``. None is differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segloss_fast import _check
from segloss_fast._check import check_flag
from segloss_fast.losses._keywords import Spacing, check_spacing
from segloss_fast.ops._voxels.labels import (
    can_hold,
    check_labels,
    count_invalid,
    out_of_range,
    outside,
)
from segloss_fast.ops.distance_transform import bounded_distances
from segloss_fast.ops.region_masks import target_masks


@torch.no_grad()
def hausdorff_field(
    target: Tensor,
    classes: int | None = None,
    *,
    spacing: Spacing | None = None,
    include_background: bool = True,
    ignore_index: int | None = None,
    impl: str = "auto",
    batched: bool = True,
) -> Tensor:
    """Return each voxel's distance to the boundary of each class: d_t of the Hausdorff losses.

    It is the field ``both`` of :func:`segloss_fast.distance_transform`, and 0 for a class that has
    no boundary because no voxel, or every one, is its.

    Args:
        target: Class indices ``[B, *S]`` or ``[B, 1, *S]`` as bool, uint8, int8 to int64 or
            floating point, with ``classes`` given; or values ``[B, C, *S]``, above one half inside.
            ``[B, 1, S]`` is read as one axis of voxels. Of one class truth values and integers are
            labels, 0 and 1; floating-point numbers are values in [0, 1].
        classes: Number of classes of class indices; None for values.
        spacing: The distance between neighbouring voxels in any unit: one number, or one per axis.
        include_background: Whether to compute class 0, whose field is 0 otherwise.
        ignore_index: Voxels with this class index, or value of one class, are outside of all
            classes.
        impl: ``"auto"``, ``"reference"``, ``"native"`` or ``"triton"``.
        batched: Whether the target has a batch axis. With False it is one sample, ``[*S]`` or
            ``[1, *S]``, or values ``[C, *S]``, as in ``__getitem__`` of a data set, and so is the
            field.

    Returns:
        float32 ``[B, C, *S]`` in the unit of ``spacing``.

    Raises:
        TypeError: If an argument's type or dtype is not one of those above.
        ValueError: If a shape, the number of classes or of spacings, or a value is not; on the CPU
            also if a label is neither a class nor ``ignore_index``, or a value of one class neither
            in [0, 1] nor that.
        RuntimeError: If ``impl`` names kernels that are not available here.
    """
    target = with_batch(target, batched)
    mask = _masks(target, classes, include_background, ignore_index, impl)
    return as_given(distances(mask, spacing, "both", impl), batched)


@torch.no_grad()
def boundary_field(
    target: Tensor,
    classes: int | None = None,
    *,
    spacing: Spacing | None = None,
    include_background: bool = True,
    ignore_index: int | None = None,
    impl: str = "auto",
    batched: bool = True,
) -> Tensor:
    """Return the signed distance map phi of :class:`segloss_fast.BoundaryLoss`.

    phi = +distance outside of a class and -(distance - w) inside, w the smallest spacing (1 without
    one), so that it is 0 on the voxels of the class at its boundary. 0 without a boundary.

    Args:
        target: As for :func:`hausdorff_field`.
        classes: As for :func:`hausdorff_field`.
        spacing: As for :func:`hausdorff_field`.
        include_background: As for :func:`hausdorff_field`.
        ignore_index: As for :func:`hausdorff_field`.
        impl: As for :func:`hausdorff_field`.
        batched: As for :func:`hausdorff_field`.

    Returns:
        float32 ``[B, C, *S]`` in the unit of ``spacing``.

    Raises:
        TypeError: As :func:`hausdorff_field`.
        ValueError: As :func:`hausdorff_field`.
        RuntimeError: As :func:`hausdorff_field`.
    """
    target = with_batch(target, batched)
    mask = _masks(target, classes, include_background, ignore_index, impl)
    return as_given(boundary_map(mask, spacing, impl), batched)


@torch.no_grad()
def penalty_field(
    target: Tensor,
    classes: int | None = None,
    *,
    spacing: Spacing | None = None,
    per_class: bool = False,
    ignore_index: int | None = None,
    impl: str = "auto",
    batched: bool = True,
) -> Tensor:
    """Return phi of :class:`segloss_fast.DistancePenalizedCELoss`, in [0, 1).

    phi_c = 1 - d / max d, d the distance to the boundary of class c, the largest taken separately
    over the inside and the outside of the class. 0 for a class without a boundary.

    Args:
        target: As for :func:`hausdorff_field`.
        classes: As for :func:`hausdorff_field`.
        spacing: As for :func:`hausdorff_field`.
        per_class: For class indices of more than one class: whether to return every class's phi, as
            a sigmoid needs, and not that of the voxel's own class, as a softmax does.
        ignore_index: As for :func:`hausdorff_field`.
        impl: As for :func:`hausdorff_field`.
        batched: As for :func:`hausdorff_field`.

    Returns:
        float32 ``[B, C, *S]``, or ``[B, 1, *S]`` for the voxel's own class.

    Raises:
        TypeError: As :func:`hausdorff_field`.
        ValueError: As :func:`hausdorff_field`.
        RuntimeError: As :func:`hausdorff_field`.
    """
    check_flag("per_class", per_class)
    target = with_batch(target, batched)
    if classes is not None and not per_class and classes > 1:
        labels, _, classes = read_target(target, classes, ignore_index)
        field = own_class(labels, classes, spacing, impl, penalty=True)
    else:
        field = penalty_map(_masks(target, classes, True, ignore_index, impl), spacing, impl)
    return as_given(field, batched)


def distances(
    mask: Tensor, spacing: Spacing | None, side: str, impl: str, squared: bool = False
) -> Tensor:
    """Return distance_transform's field, 0 for a mask without a boundary.

    Args:
        mask: ``[B, C, *S]`` bool.
        spacing: Unchecked.
        side: Of distance_transform.
        impl: Of distance_transform.
        squared: Whether to return squares.
    """
    spacing = check_spacing(spacing)
    return bounded_distances(mask, spacing, side=side, squared=squared, impl=impl)


def boundary_map(mask: Tensor, spacing: Spacing | None, impl: str) -> Tensor:
    """Return phi as :func:`boundary_field`, given the masks."""
    spacing = check_spacing(spacing)
    field = distances(mask, spacing, "signed", impl)
    step = min(spacing) if isinstance(spacing, tuple) else spacing
    return field.add_(field < 0, alpha=1 if step is None else step)


def penalty_map(mask: Tensor, spacing: Spacing | None, impl: str) -> Tensor:
    """Return phi as :func:`penalty_field`, given the masks."""
    field = distances(mask, spacing, "signed", impl)
    if field.numel() == 0:
        return field
    axes = list(range(2, field.dim()))
    outside, inside = field.amax(axes, keepdim=True), -field.amin(axes, keepdim=True)
    bounded = outside > 0
    # Two factors, one for either side's distances; infinite ones only where there are none.
    ratio = field.clamp_min(0).mul_(1 / outside.masked_fill(~bounded, 1))
    ratio.addcmul_(field.clamp_max_(0), 1 / inside.masked_fill(~bounded, 1), value=-1)
    return ratio.neg_().add_(bounded)


def own_class(
    labels: Tensor, classes: int, spacing: Spacing | None, impl: str, *, penalty: bool
) -> Tensor:
    """Return each voxel's distance to the boundary of its own class, float32 ``[B, 1, *S]``.

    One class after another, because their voxels are disjoint: no field per class is needed.

    Args:
        labels: ``[B, *S]``; what is no class gets 0.
        classes: Number of classes.
        spacing: Unchecked.
        impl: Of distance_transform.
        penalty: Whether to return phi of :func:`penalty_field` instead of the distance.
    """
    # Of the labels, so that it is a batch of torch.func.vmap where they are.
    own = labels.new_zeros(labels.shape, dtype=torch.float32)[:, None]
    axes = list(range(2, own.dim()))
    for c in range(classes if own.numel() else 0):
        if not can_hold(labels.dtype, c):
            break  # nor a later one
        mask = (labels == c)[:, None]
        field = distances(mask, spacing, "inside", impl)
        if penalty:
            largest = field.amax(axes, keepdim=True)
            bounded = largest > 0
            field.mul_(-1 / largest.masked_fill(~bounded, 1)).add_(mask & bounded)
        own += field
    return own


def with_batch(target: Tensor, batched: bool) -> Tensor:
    """Return a target with a batch axis, given whether it has one."""
    check_flag("batched", batched)
    return target if batched or not isinstance(target, Tensor) else target[None]


def as_given(field: Tensor, batched: bool) -> Tensor:
    """Return a field with a batch axis where the target has one."""
    return field if batched else field[0]


def _masks(
    target: Tensor,
    classes: int | None,
    include_background: bool,
    ignore_index: int | None,
    impl: str,
) -> Tensor:
    check_flag("include_background", include_background)
    target, dense, channels = read_target(target, classes, ignore_index)
    return target_masks(
        target,
        channels,
        dense=dense,
        ignore_index=ignore_index,
        first=0 if include_background else 1,
        impl=impl,
    )


def read_target(
    target: Tensor, classes: int | None, ignore_index: int | None
) -> tuple[Tensor, bool, int]:
    """Return the target as class indices ``[B, *S]`` or as values, which it is, and C."""
    _check.check_dtype("target", target, _check.REAL)
    _check.check_ignore_index(ignore_index)
    if classes is None:
        if not 3 <= target.dim() <= 5:
            raise ValueError(
                "target must be values [B, C, *S] with one to three spatial dimensions where "
                f"classes is None, got shape {list(target.shape)}"
            )
        if target.shape[1] == 1:
            return read_target(target, 1, ignore_index)
        if ignore_index is not None:
            raise ValueError("ignore_index goes with class indices, which need classes; got None")
        return target, True, target.shape[1]
    if not isinstance(classes, int) or isinstance(classes, bool):
        raise TypeError(f"classes must be an int or None, got {type(classes).__name__}")
    if classes < 1:
        raise ValueError(f"classes must be at least 1, got {classes}")
    if target.dim() >= 3 and target.shape[1] == 1:
        target = target.squeeze(1)
    if not 2 <= target.dim() <= 4:
        raise ValueError(
            "target must be class indices [B, *S] or [B, 1, *S] with one to three spatial "
            f"dimensions, got shape {list(target.shape)}"
        )
    dense = classes == 1 and target.is_floating_point()
    if target.device.type == "cpu":  # on a GPU the host would wait for the answer
        _check_labels(target, classes, ignore_index, dense)
    return target[:, None] if dense else target, dense, classes


def _check_labels(labels: Tensor, classes: int, ignore_index: int | None, dense: bool) -> None:
    """Raise ValueError if there are labels that are no class, or values outside of [0, 1]."""
    bad = outside(labels) if dense else out_of_range(labels, classes)
    if ignore_index is not None and can_hold(labels.dtype, ignore_index):
        bad &= labels != ignore_index
    if bad.any():
        check_labels(count_invalid(labels, bad), classes, dense=dense)
