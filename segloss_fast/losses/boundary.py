"""Boundary losses over distance fields: Hausdorff by distance transforms, boundary loss."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss_fast import _check
from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._keywords import PerItem, Spacing, Voxel, VoxelKeywords, check_spacing
from segloss_fast.losses._module import FieldLoss
from segloss_fast.losses._powers import add_powers, powers
from segloss_fast.losses._reduce import Part, check_classes, evaluate, reduce_mean
from segloss_fast.losses.fields import boundary_map
from segloss_fast.ops._voxels.checks import check_target, check_voxel_weight
from segloss_fast.ops.region_masks import prediction_masks, target_masks
from segloss_fast.ops.region_sums import RegionSums


@loss_function
def hausdorff_dt_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    alpha: float = 2.0,
    spacing: Spacing | None = None,
    target_field: Tensor | None = None,
    **keywords: Unpack[VoxelKeywords],
) -> Tensor:
    """Functional form of :class:`HausdorffDTLoss`."""
    checked = PerItem(**keywords).whole()
    _check.check_number("alpha", alpha, minimum=0)
    return _hausdorff(
        input, target, voxel_weight, alpha, check_spacing(spacing), target_field, checked, log=False
    )


class HausdorffDTLoss(FieldLoss):
    """Hausdorff loss by distance transforms, the mean over voxels of ``(p-t)^2 (d_p^a + d_t^a)``.

    >>> loss = segloss_fast.HausdorffDTLoss(activation="sigmoid")
    >>> loss(torch.tensor([[[-2.0, 2.0, 2.0, -2.0]]]), torch.tensor([[0, 0, 1, 1]]))
    tensor(1.3825)

    Per item and class, with a = ``alpha``; d_p and d_t are the distances of the voxel to the
    boundary of the predicted mask (p > 0.5) and of the target's (t > 0.5): inside and outside
    (``both`` of :func:`segloss_fast.distance_transform`), 0 for a mask without a boundary. They are
    constants of the gradient. Equal to MONAI's of the same name (which leaves the background out
    by default). Source: Karimi & Salcudean 2019, https://arxiv.org/abs/1904.10030.

    Args:
        alpha: Exponent of the distances, at least 0; 2 needs no square roots.
        spacing: The distance between neighbouring voxels in any unit: one number, or one per axis.
            The loss is in this unit to the power ``alpha``.
        **keywords: The common keywords of voxel losses, see :mod:`segloss_fast.losses`; the
            reduction is over items and classes, "none" gives their means.

    ``target_field`` of ``forward`` is d_t, ``[B, C, *S]``, as
    :func:`segloss_fast.hausdorff_field` returns it.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    field_kind = "hausdorff"

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        spacing: Spacing | None = None,
        **keywords: Unpack[VoxelKeywords],
    ) -> None:
        PerItem(**keywords).whole()
        _check.check_number("alpha", alpha, minimum=0)
        super().__init__(hausdorff_dt_loss, alpha=alpha, spacing=check_spacing(spacing), **keywords)


@loss_function
def log_hausdorff_dt_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    alpha: float = 2.0,
    spacing: Spacing | None = None,
    target_field: Tensor | None = None,
    **keywords: Unpack[VoxelKeywords],
) -> Tensor:
    """Functional form of :class:`LogHausdorffDTLoss`."""
    checked = PerItem(**keywords).whole()
    _check.check_number("alpha", alpha, minimum=0)
    return _hausdorff(
        input, target, voxel_weight, alpha, check_spacing(spacing), target_field, checked, log=True
    )


class LogHausdorffDTLoss(FieldLoss):
    """``log(1 + HausdorffDTLoss)``, of the value that the reduction returns, as MONAI's.

    >>> loss = segloss_fast.LogHausdorffDTLoss(activation="sigmoid")
    >>> loss(torch.tensor([[[-2.0, 2.0, 2.0, -2.0]]]), torch.tensor([[0, 0, 1, 1]]))
    tensor(0.8682)

    Args:
        alpha: As in :class:`HausdorffDTLoss`.
        spacing: As in :class:`HausdorffDTLoss`.
        **keywords: As in :class:`HausdorffDTLoss`.

    ``target_field`` of ``forward`` is that of :class:`HausdorffDTLoss`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    field_kind = "hausdorff"

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        spacing: Spacing | None = None,
        **keywords: Unpack[VoxelKeywords],
    ) -> None:
        PerItem(**keywords).whole()
        _check.check_number("alpha", alpha, minimum=0)
        super().__init__(
            log_hausdorff_dt_loss, alpha=alpha, spacing=check_spacing(spacing), **keywords
        )


@loss_function
def boundary_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    spacing: Spacing | None = None,
    target_field: Tensor | None = None,
    **keywords: Unpack[VoxelKeywords],
) -> Tensor:
    """Functional form of :class:`BoundaryLoss`."""
    checked = PerItem(**keywords)
    spacing = check_spacing(spacing)
    labels = check_tensors(input, target, voxel_weight, target_field, checked)
    if target_field is None:
        checked.whole(field=True)
        with torch.no_grad():
            masks = masks_of_target(input, labels, checked)
            target_field = boundary_map(masks, spacing, checked.impl)
    part = Part(("pred", "weight"), lambda sums: reduce_mean(sums.pred, sums, checked))
    return _mean(part, input, target, voxel_weight, target_field, checked)


class BoundaryLoss(FieldLoss):
    """Boundary loss, the mean over voxels of ``p phi`` per item and class.

    >>> loss = segloss_fast.BoundaryLoss(activation="sigmoid")
    >>> loss(torch.tensor([[[-2.0, 2.0, 2.0, -2.0]]]), torch.tensor([[0, 0, 1, 1]]))
    tensor(0.2500)

    phi is the signed distance to the boundary of the class: positive outside, ``-(distance - w)``
    inside, w the smallest spacing (1 without one); 0 without a boundary. The loss is negative for a
    good prediction, and is meant to be added to a region loss. Equal to MONAI's of the same name.
    Source: Kervadec et al. 2019, https://arxiv.org/abs/1812.07032.

    Args:
        spacing: As in :class:`HausdorffDTLoss`; phi is in its unit.
        **keywords: As in :class:`HausdorffDTLoss`.

    ``target_field`` of ``forward`` is phi, ``[B, C, *S]``, as :func:`segloss_fast.boundary_field`
    returns it.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    field_kind = "boundary"

    def __init__(
        self, *, spacing: Spacing | None = None, **keywords: Unpack[VoxelKeywords]
    ) -> None:
        PerItem(**keywords)
        super().__init__(boundary_loss, spacing=check_spacing(spacing), **keywords)


def check_tensors(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    target_field: Tensor | None,
    keywords: Voxel,
    channels: tuple[int, ...] = (),
) -> Tensor:
    """Check what the masks are made of before they are made; return the target.

    Args:
        input: ``[B, C, *S]``.
        target: Any that region_sums takes.
        voxel_weight: Any that region_sums takes.
        target_field: Must be ``[B, C, *S]``, or have one of the channels.
        keywords: Of the loss.
        channels: That target_field may have besides C.

    Returns:
        Class indices ``[B, *S]``, or values ``[B, C, *S]``.
    """
    check_classes(input, keywords)
    target = check_target(input, target, keywords.ignore_index)
    if voxel_weight is not None:
        check_voxel_weight(input, voxel_weight)
    if target_field is not None:
        _check.check_dtype("target_field", target_field, _check.FLOATING)
        _check.check_device("target_field", target_field, input)
        allowed = [[input.shape[0], n, *input.shape[2:]] for n in (*channels, input.shape[1])]
        if list(target_field.shape) not in allowed:
            raise ValueError(
                f"target_field must have shape {' or '.join(map(str, allowed))}, "
                f"got {list(target_field.shape)}"
            )
    return target


def masks_of_target(input: Tensor, target: Tensor, keywords: Voxel) -> Tensor:
    """Return the classes' masks, bool ``[B, C, *S]``; that of a background left out is empty."""
    return target_masks(
        target,
        input.shape[1],
        dense=target.dim() == input.dim(),
        ignore_index=keywords.ignore_index,
        first=0 if keywords.include_background else 1,
        impl=keywords.impl,
    )


def masks_of_prediction(input: Tensor, target: Tensor, keywords: Voxel) -> Tensor:
    """Return where p > 0.5, as :func:`masks_of_target`."""
    return prediction_masks(
        input,
        target,
        activation=keywords.activation,
        ignore_index=keywords.ignore_index,
        first=0 if keywords.include_background else 1,
        impl=keywords.impl,
    )


def _hausdorff(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    alpha: float,
    spacing: Spacing | None,
    target_field: Tensor | None,
    keywords: Voxel,
    log: bool,
) -> Tensor:
    labels = check_tensors(input, target, voxel_weight, target_field, keywords)

    with torch.no_grad():
        masks = masks_of_prediction(input, labels, keywords)
        weight = powers(masks, spacing, alpha, keywords.impl)
        if target_field is None:
            masks = masks_of_target(input, labels, keywords)
            weight = add_powers(weight, masks, spacing, alpha, keywords.impl)
        else:
            weight, known = _check.writable(weight, target_field), target_field.to(weight.dtype)
            weight.addcmul_(known, known) if alpha == 2 else weight.add_(known.pow(alpha))

    def value(sums: RegionSums) -> Tensor:
        loss = reduce_mean(sums.sq_err, sums, keywords)
        return loss.log1p() if log else loss

    return _mean(Part(("sq_err", "weight"), value), input, target, voxel_weight, weight, keywords)


def _mean(
    part: Part,
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    field: Tensor,
    keywords: Voxel,
) -> Tensor:
    return evaluate(
        [part],
        input,
        target,
        voxel_weight,
        keywords,
        has_background_row=keywords.include_background,
        field=field.detach(),
    )
