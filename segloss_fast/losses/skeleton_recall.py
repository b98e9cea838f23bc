"""Skeleton recall: how much of the middle of a thin structure the prediction covers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._keywords import Region, RegionKeywords
from segloss_fast.losses._module import Loss
from segloss_fast.losses._reduce import Part, check_factors, evaluate, ratio, reduce_region
from segloss_fast.losses.compound import dice_ce_loss
from segloss_fast.losses.region import needs_counts
from segloss_fast.ops._voxels.checks import check_target
from segloss_fast.ops._voxels.labels import counted_voxels
from segloss_fast.ops.region_sums import RegionSums

# Types with room for a label that no skeleton of the smaller type can have.
WIDER = {
    torch.bool: torch.int16,
    torch.uint8: torch.int16,
    torch.int8: torch.int16,
    torch.int16: torch.int32,
    torch.int32: torch.int64,
}


@loss_function
def skeleton_recall_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    skeleton: Tensor | None = None,
    lambda_recall: float = 1.0,
    lambda_dice: float = 1.0,
    lambda_ce: float = 1.0,
    **keywords: Unpack[RegionKeywords],
) -> Tensor:
    """Functional form of :class:`SkeletonRecallLoss`."""
    checked = Region(**keywords)
    check_factors(lambda_recall=lambda_recall, lambda_dice=lambda_dice, lambda_ce=lambda_ce)
    loss = None
    if lambda_recall != 0:
        if skeleton is None:
            raise TypeError(
                "skeleton must be a tensor unless lambda_recall is 0, got None: "
                "segloss_fast.tubed_skeleton makes it in the data loader"
            )
        loss = lambda_recall * _missed(input, target, voxel_weight, skeleton, checked)
    if lambda_dice == 0 and lambda_ce == 0 and loss is not None:
        return loss
    rest = dice_ce_loss(
        input, target, voxel_weight, lambda_dice=lambda_dice, lambda_ce=lambda_ce, **keywords
    )
    return rest if loss is None else loss + rest


class SkeletonRecallLoss(Loss):
    """Skeleton recall with Dice and cross-entropy: that a vessel is found matters, not its width.

    >>> loss = segloss_fast.SkeletonRecallLoss(lambda_dice=0, lambda_ce=0)
    >>> target = torch.tensor([[0, 1, 1, 1]])
    >>> loss(torch.zeros(1, 2, 4), target, skeleton=torch.tensor([[0, 0, 1, 0]]))
    tensor(0.5000)

    ``lambda_recall (1 - (sum p s + smooth_nr) / (sum s + smooth_dr)) + lambda_dice DiceLoss +
    lambda_ce CrossEntropyLoss``, s the skeleton of the class, thickened to a tube. The recall is
    per item and class; a class without a skeleton has a recall of 1. Unlike clDice, nothing is
    thinned in training: the skeletons of the targets come from the data loader, where
    :func:`segloss_fast.tubed_skeleton` makes the tubes. Source: Kirchhoff et al. 2024,
    https://arxiv.org/abs/2404.03010, where the recall is counted as -recall.

    ``forward`` has the keyword ``skeleton``: class indices ``[B, *S]`` or ``[B, 1, *S]``, 0 where
    there is no skeleton, so that class 0 has no share in the recall; or 0 and 1 ``[B, C, *S]`` for
    structures that overlap, where ``include_background`` says whether class 0 has one. Voxels whose
    target is ``ignore_index`` do not count in the recall either. With both other factors 0 the
    target is read for these alone. In deep supervision ``skeleton`` is a list of one for each
    level, with None where the recall has no share.

    Args:
        lambda_recall: Factor of the skeleton recall.
        lambda_dice: Factor of Dice.
        lambda_ce: Factor of cross-entropy, which is as in :class:`DiceCELoss`.
        **keywords: The common keywords of region losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    without_map: ClassVar[Mapping[str, Mapping[str, object]]] = {"skeleton": {"lambda_recall": 0.0}}

    def __init__(
        self,
        *,
        lambda_recall: float = 1.0,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
        **keywords: Unpack[RegionKeywords],
    ) -> None:
        Region(**keywords)
        check_factors(lambda_recall=lambda_recall, lambda_dice=lambda_dice, lambda_ce=lambda_ce)
        super().__init__(
            skeleton_recall_loss,
            lambda_recall=lambda_recall,
            lambda_dice=lambda_dice,
            lambda_ce=lambda_ce,
            **keywords,
        )

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        voxel_weight: Tensor | None = None,
        *,
        skeleton: Tensor | None = None,
    ) -> Tensor:
        """Return the loss.

        Args:
            input: ``[B, C, *S]``.
            target: Class indices ``[B, *S]`` or ``[B, 1, *S]``, or values ``[B, C, *S]``.
            voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``.
            skeleton: Class indices ``[B, *S]`` or ``[B, 1, *S]``, or values ``[B, C, *S]``. Can be
                left out only where ``lambda_recall`` is 0.

        Returns:
            A scalar, or ``[B, C]`` rows (``[C]`` where the batch is pooled) for the reduction
            "none", where that of class 0 may hold cross-entropy alone.

        Raises:
            TypeError: If there is no skeleton, or as other losses.
            ValueError: If the skeleton does not fit the input, or as other losses.
        """
        return self.call(input, target, voxel_weight, skeleton=skeleton)


def _missed(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    skeleton: Tensor,
    keywords: Region,
) -> Tensor:
    """Return 1 - recall, reduced."""
    labels = check_target(input, target, keywords.ignore_index)
    skeleton = check_target(input, skeleton, None, name="skeleton")
    counted = counted_voxels(input, labels, keywords.ignore_index)
    indices = skeleton.dim() < input.dim()
    own = replace(keywords, ignore_index=None)
    if indices and input.shape[1] > 1:
        own = replace(own, include_background=False)  # 0 says that there is no skeleton
    if counted is not None:
        if not indices and input.shape[1] > 1:
            raise ValueError(
                "skeleton must be class indices where ignore_index is given, got a value per class "
                f"(shape {list(skeleton.shape)})"
            )
        skeleton, ignored = _ignoring(skeleton, counted[:, 0] if indices else counted)
        own = replace(own, ignore_index=ignored)
    counts = needs_counts(keywords, input, voxel_weight)

    def value(sums: RegionSums) -> Tensor:
        recall = ratio(sums.tp, sums.target, own.smooth_nr, own.smooth_dr)
        return reduce_region(1 - recall, sums, own, counts)

    part = Part(("tp", "target", "weight") if counts else ("tp", "target"), value)
    try:
        return evaluate([part], input, skeleton, voxel_weight, own, has_background_row=True)
    except ValueError as error:  # of its values, which only the kernels look at
        if torch.compiler.is_compiling() or not str(error).startswith("target"):
            raise
        raise ValueError("skeleton" + str(error).removeprefix("target")) from None


def _ignoring(skeleton: Tensor, counted: Tensor) -> tuple[Tensor, int]:
    """Return the skeleton with a label of its own where voxels are ignored, and this label."""
    wide = skeleton.to(WIDER.get(skeleton.dtype, skeleton.dtype))
    ignored = -(2**15) if wide.is_floating_point() else torch.iinfo(wide.dtype).min
    return torch.where(counted, wide, ignored), ignored
