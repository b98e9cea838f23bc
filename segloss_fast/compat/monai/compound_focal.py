"""MONAI's Dice and generalised Dice with focal loss, from one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from segloss_fast.compat._planned import planned
from segloss_fast.compat._volumes import Volumes, plain, result_dtype
from segloss_fast.compat.monai._base import (
    check_channels,
    check_shapes,
    class_indices,
    ignored,
)
from segloss_fast.compat.monai._labels import one_hot
from segloss_fast.compat.monai._script import Scriptable
from segloss_fast.compat.monai.compound import check_lambdas, unrounded, weighted_sum
from segloss_fast.compat.monai.dice import DiceLoss
from segloss_fast.compat.monai.focal import HARDNESS, FocalLoss, is_hard
from segloss_fast.compat.monai.generalized import GeneralizedDiceLoss


class DiceFocalLoss(Scriptable, _Loss):
    """MONAI's DiceFocalLoss, with its arguments.

    >>> loss = segloss_fast.compat.monai.DiceFocalLoss(to_onehot_y=True, softmax=True)
    >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4))
    tensor(0.8400)

    ``lambda_dice * dice + lambda_focal * focal``, both from one pass over the volume. As in MONAI
    the focal loss is that of a sigmoid, with ``softmax=True`` too, and ``include_background`` and
    ``weight`` are those of both. With ``reduction="none"`` the result is the map of the focal loss
    with each class's Dice added everywhere.

    Raises:
        TypeError: If ``other_act`` is not callable.
        ValueError: If more than one activation is given, the reduction is unknown, or a lambda is
            negative.
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        squared_pred: bool = False,
        jaccard: bool = False,
        reduction: Any = "mean",  # noqa: ANN401
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        gamma: float = 2.0,
        weight: Sequence[float] | float | Tensor | None = None,
        lambda_dice: float = 1.0,
        lambda_focal: float = 1.0,
        alpha: float | None = None,
    ) -> None:
        super().__init__()
        self.dice = DiceLoss(
            include_background,
            False,
            sigmoid,
            softmax,
            other_act,
            squared_pred,
            jaccard,
            reduction,
            smooth_nr,
            smooth_dr,
            batch,
            weight,
        )
        self.focal = FocalLoss(include_background, False, gamma, alpha, weight, reduction)
        check_lambdas(lambda_dice=lambda_dice, lambda_focal=lambda_focal)
        self.lambda_dice = lambda_dice
        self.lambda_focal = lambda_focal
        self.to_onehot_y = to_onehot_y

    @planned
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits ``[B, C, *S]`` against the same or indices ``[B, 1, *S]``."""
        check_channels(input, target)
        factors = self.lambda_dice, self.lambda_focal
        labels = self.to_onehot_y and input.shape[1] > 1
        parts_agree = not (self.dice.to_onehot_y or self.focal.to_onehot_y)
        if parts_agree and labels == self.to_onehot_y:
            found = in_one_pass(self.dice, self.focal, factors, input, target, labels)
            if found is not None:
                return found
        if labels:
            target = one_hot(class_indices(input, plain(target)), input.shape[1], torch.float32)
        elif self.to_onehot_y:
            ignored("to_onehot_y=True")
        return _sum_of_parts(self.dice, self.focal, factors, input, target)


class GeneralizedDiceFocalLoss(Scriptable, _Loss):
    """MONAI's GeneralizedDiceFocalLoss, with its arguments.

    >>> loss = segloss_fast.compat.monai.GeneralizedDiceFocalLoss(to_onehot_y=True, softmax=True)
    >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4))
    tensor(0.6732)

    ``lambda_gdl * generalized_dice + lambda_focal * focal``, both from one pass over the volume. As
    in MONAI the focal loss is that of a sigmoid, with ``softmax=True`` too, ``weight`` is that of
    the focal loss, and ``include_background`` that of both.

    Raises:
        TypeError: If ``other_act`` is not callable.
        ValueError: If more than one activation is given, the reduction or w_type is unknown, or a
            lambda is negative.
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        w_type: Any = "square",  # noqa: ANN401
        reduction: Any = "mean",  # noqa: ANN401
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        gamma: float = 2.0,
        weight: Sequence[float] | float | Tensor | None = None,
        lambda_gdl: float = 1.0,
        lambda_focal: float = 1.0,
    ) -> None:
        super().__init__()
        self.generalized_dice = GeneralizedDiceLoss(
            include_background,
            to_onehot_y,
            sigmoid,
            softmax,
            other_act,
            w_type,
            reduction,
            smooth_nr,
            smooth_dr,
            batch,
        )
        self.focal = FocalLoss(
            include_background, to_onehot_y, gamma, weight=weight, reduction=reduction
        )
        check_lambdas(lambda_gdl=lambda_gdl, lambda_focal=lambda_focal)
        self.lambda_gdl = lambda_gdl
        self.lambda_focal = lambda_focal

    @planned
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits ``[B, C, *S]`` against the same or indices ``[B, 1, *S]``."""
        check_channels(input, target)
        factors = self.lambda_gdl, self.lambda_focal
        region, focal = self.generalized_dice, self.focal
        if region.to_onehot_y == focal.to_onehot_y:
            found = in_one_pass(region, focal, factors, input, target, region.to_onehot_y)
            if found is not None:
                return found
        return _sum_of_parts(region, focal, factors, input, target)


def _sum_of_parts(
    region: nn.Module, focal: nn.Module, factors: tuple[float, float], input: Tensor, target: Tensor
) -> Tensor:
    """Return the weighted sum of both losses, each on its own."""
    first, dtype = unrounded(region, input, target)
    second = focal(input, target)
    return weighted_sum(factors, first, second, torch.promote_types(dtype, second.dtype))


def in_one_pass(
    region: DiceLoss | GeneralizedDiceLoss,
    focal: FocalLoss,
    factors: tuple[float, float],
    input: Tensor,
    target: Tensor,
    labels: bool,
) -> Tensor | None:
    """Return the weighted sum of both losses, None if one pass cannot give it.

    Args:
        region: The loss that the first factor weighs.
        focal: The loss that the second factor weighs.
        factors: Of both.
        input: ``[B, C, *S]``.
        target: Class indices ``[B, 1, *S]`` if ``labels``, else values ``[B, C, *S]``.
        labels: Whether the target holds class indices.
    """
    if type(region) not in (DiceLoss, GeneralizedDiceLoss) or type(focal) is not FocalLoss:
        return None
    input, target = plain(input), plain(target)
    both = _volumes(region, focal, input, target, labels)
    if both is None:
        return None
    look = focal._look(both[1])
    if look is None or not focal._is_over_sums(both[1]):
        return None
    volumes, activation = both[0], both[1].activation
    terms = region._terms(volumes) + focal._terms() + (HARDNESS if look else ())
    sums = volumes.sums(
        tuple(dict.fromkeys(terms)), gamma=focal.gamma, ce_activation=activation, every=True
    )
    first = region._of(volumes.share(sums), volumes)
    hard = not look or is_hard(sums)
    second = focal._of(sums, both[1]) if hard else focal._from_map(both[1])
    dtype = torch.promote_types(volumes.dtype, torch.float32)
    return weighted_sum(factors, first, second, dtype)


def _volumes(
    region: DiceLoss | GeneralizedDiceLoss,
    focal: FocalLoss,
    input: Tensor,
    target: Tensor,
    labels: bool,
) -> tuple[Volumes, Volumes] | None:
    """Return what both losses compare, None if it is not the same or one of them warns."""
    classes = input.shape[1]
    if region.sigmoid == region.softmax or region.other_act is not None:
        return None
    if input.dim() < 3 or not input.is_floating_point():
        return None
    if focal.ignore_index is not None or getattr(region, "ignore_index", None) is not None:
        return None
    backgrounds = region.include_background, focal.include_background
    if classes == 1 and (region.softmax or labels or not all(backgrounds)):
        return None
    if labels:
        target = class_indices(input, target)
    else:
        check_shapes(input, target)
    dtype = result_dtype(input, target)
    dtype = torch.promote_types(dtype, torch.float32) if labels else dtype
    activations = "sigmoid" if region.sigmoid else "softmax", focal._activation()
    first, second = (
        Volumes(input, activation, target, 0 if background else 1, dtype=dtype)
        for activation, background in zip(activations, backgrounds, strict=True)
    )
    return first, second
