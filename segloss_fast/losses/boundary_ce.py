"""Cross-entropy weighted by distance fields: distance-penalised, shape-aware."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss_fast._check import widen, writable
from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._keywords import Spacing, Voxel, VoxelKeywords, check_spacing
from segloss_fast.losses._module import FieldLoss, Loss
from segloss_fast.losses._reduce import evaluate
from segloss_fast.losses.boundary import check_tensors, masks_of_prediction, masks_of_target
from segloss_fast.losses.distribution import cross_entropy_part, is_categorical, is_dense
from segloss_fast.losses.fields import distances, own_class, penalty_map


@loss_function
def distance_penalized_ce_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    spacing: Spacing | None = None,
    target_field: Tensor | None = None,
    **keywords: Unpack[VoxelKeywords],
) -> Tensor:
    """Functional form of :class:`DistancePenalizedCELoss`."""
    checked = Voxel(**keywords)
    spacing = check_spacing(spacing)
    labels = check_tensors(input, target, voxel_weight, target_field, checked, channels=(1,))
    if target_field is None:
        checked.whole(field=True)
    with torch.no_grad():
        if target_field is not None:
            weight = widen(target_field.detach()) + 1
        elif _one_class_per_voxel(input, labels, checked):
            weight = own_class(labels, input.shape[1], spacing, checked.impl, penalty=True).add_(1)
        else:
            weight = penalty_map(
                masks_of_target(input, labels, checked), spacing, checked.impl
            ).add_(1)
    return _cross_entropy(input, target, voxel_weight, weight, checked)


class DistancePenalizedCELoss(FieldLoss):
    """Distance-penalised cross-entropy, the mean over voxels of ``(1 + phi_y) nll``.

    >>> loss = segloss_fast.DistancePenalizedCELoss()
    >>> loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 0, 1]]))
    tensor(0.8664)

    phi_c = 1 - d / max d with d the distance to the boundary of class c, the largest taken
    separately over the inside and the outside of the class; y is the voxel's class. phi is largest
    at the boundary, 0 farthest from it, and 0 for a class without one. With activation "sigmoid"
    every class weighs its binary cross-entropy by its own phi. The mean divides by the plain number
    (or class and voxel weights) of voxels, not by phi. Source: Caliva et al. 2019,
    https://arxiv.org/abs/1908.03679.

    Args:
        spacing: The distance between neighbouring voxels in any unit: one number, or one per axis.
        **keywords: The common keywords of voxel losses, see :mod:`segloss_fast.losses`.

    ``target_field`` of ``forward`` is phi as :func:`segloss_fast.penalty_field` returns it:
    ``[B, 1, *S]`` of the voxel's own class, or ``[B, C, *S]``.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    field_kind = "penalty"

    def __init__(
        self, *, spacing: Spacing | None = None, **keywords: Unpack[VoxelKeywords]
    ) -> None:
        Voxel(**keywords)
        super().__init__(distance_penalized_ce_loss, spacing=check_spacing(spacing), **keywords)


@loss_function
def shape_aware_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    spacing: Spacing | None = None,
    **keywords: Unpack[VoxelKeywords],
) -> Tensor:
    """Functional form of :class:`ShapeAwareLoss`."""
    checked = Voxel(**keywords).whole()
    spacing = check_spacing(spacing)
    labels = check_tensors(input, target, voxel_weight, None, checked)
    with torch.no_grad():
        if _one_class_per_voxel(input, labels, checked):
            weight = own_class(labels, input.shape[1], spacing, checked.impl, penalty=False)
            wrong = (_top(input) != labels)[:, None]
        else:
            masks = masks_of_target(input, labels, checked)
            weight = distances(masks, spacing, "both", checked.impl)
            if is_categorical(checked.activation, input):
                wrong = (_top(input) != _top(labels))[:, None]
            else:
                wrong = masks ^ masks_of_prediction(input, labels, checked)
        weight = writable(weight, wrong).mul_(wrong).add_(1)
    return _cross_entropy(input, target, voxel_weight, weight, checked)


class ShapeAwareLoss(Loss):
    """Shape-aware cross-entropy, the mean over voxels of ``(1 + E) nll``.

    >>> loss = segloss_fast.ShapeAwareLoss()
    >>> loss(torch.eye(2)[None], torch.tensor([[1, 0]]))
    tensor(2.6265)

    E is the distance of the voxel to the boundary of its target class where the largest probability
    is another class's, and 0 elsewhere. With ``activation="sigmoid"`` every class has its own E,
    where p > 0.5 differs from t > 0.5. E is a constant of the gradient, and 0 for a class without a
    boundary. Source: Al Arif et al. 2018, https://arxiv.org/abs/1805.10876.

    Args:
        spacing: The distance between neighbouring voxels in any unit, which is that of E: one
            number, or one per axis.
        **keywords: The common keywords of voxel losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    def __init__(
        self, *, spacing: Spacing | None = None, **keywords: Unpack[VoxelKeywords]
    ) -> None:
        Voxel(**keywords).whole()
        super().__init__(shape_aware_loss, spacing=check_spacing(spacing), **keywords)


def _one_class_per_voxel(input: Tensor, labels: Tensor, keywords: Voxel) -> bool:
    """Whether a voxel has one class, the only one whose field it needs."""
    return is_categorical(keywords.activation, input) and labels.dim() < input.dim()


def _top(values: Tensor) -> Tensor:
    """Return the class of the largest value, ``[B, *S]``."""
    values = values.detach()
    return (values.to(torch.uint8) if values.dtype == torch.bool else values).argmax(1)


def _cross_entropy(
    input: Tensor, target: Tensor, voxel_weight: Tensor | None, field: Tensor, keywords: Voxel
) -> Tensor:
    categorical = is_categorical(keywords.activation, input)
    return evaluate(
        [cross_entropy_part(keywords, categorical, 0.0, None, dense=is_dense(input, target))],
        input,
        target,
        voxel_weight,
        keywords,
        has_background_row=keywords.include_background,
        field=field,
    )
