"""MONAI's Dice with cross-entropy, from one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from segloss_fast.compat._planned import planned
from segloss_fast.compat._volumes import Volumes, comparable, plain, result_dtype
from segloss_fast.compat.monai._base import check_channels, check_reduction
from segloss_fast.compat.monai._script import Scriptable
from segloss_fast.compat.monai.dice import DiceLoss
from segloss_fast.compat.monai.generalized import GeneralizedDiceLoss
from segloss_fast.ops.region_sums import RegionSums

NO_INDEX = -100  # of torch's cross-entropy; a label that Dice refuses
REDUCED = ("mean", "sum")


class DiceCELoss(Scriptable, _Loss):
    """MONAI's DiceCELoss, with its arguments.

    >>> loss = segloss_fast.compat.monai.DiceCELoss(to_onehot_y=True, softmax=True)
    >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4))
    tensor(1.3598)

    ``lambda_dice * dice + lambda_ce * cross_entropy``, both from one pass over the volume. As in
    MONAI the cross-entropy is that of a softmax, with ``sigmoid=True`` too, and has the background
    with ``include_background=False`` too; of one class it is binary, and ``weight`` is that of
    targets of 1. Where the target holds class indices, the mean of the weighted cross-entropy is
    divided by the weights of the voxels; where it holds values, by the number of voxels.

    Raises:
        TypeError: If ``other_act`` is not callable, or ``weight`` is no tensor.
        ValueError: If more than one activation is given, the reduction is not "mean" or "sum", or a
            lambda is negative.
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
        weight: Tensor | None = None,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        reduction = check_reduction(reduction)
        if reduction not in REDUCED:
            raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
        self.dice = DiceLoss(
            include_background,
            to_onehot_y,
            sigmoid,
            softmax,
            other_act,
            squared_pred,
            jaccard,
            reduction,
            smooth_nr,
            smooth_dr,
            batch,
            weight if weight is None or include_background else weight[1:],
        )
        self.cross_entropy = nn.CrossEntropyLoss(
            weight=weight, reduction=reduction, label_smoothing=label_smoothing
        )
        self.binary_cross_entropy = nn.BCEWithLogitsLoss(pos_weight=weight, reduction=reduction)
        check_lambdas(lambda_dice=lambda_dice, lambda_ce=lambda_ce)
        self.lambda_dice = lambda_dice
        self.lambda_ce = lambda_ce

    @planned
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits ``[B, C, *S]`` against the same or indices ``[B, 1, *S]``."""
        check_channels(input, target)
        input, target = plain(input), plain(target)
        volumes = None
        if type(self.dice) is DiceLoss:
            volumes = self.dice._volumes(input, target, self.dice.ignore_index)
        if volumes is not None and self._shares(volumes):
            return self._of_one_pass(volumes)
        dice, dtype = unrounded(self.dice, input, target, volumes)
        entropy, other = self._entropy_of(input, target)
        dtype = torch.promote_types(dtype, other)
        return weighted_sum((self.lambda_dice, self.lambda_ce), dice, entropy, dtype)

    def _of_one_pass(self, volumes: Volumes) -> Tensor:
        """Return the loss, both parts from the same sums."""
        terms = self.dice._terms(volumes) + self._entropy_terms(volumes)
        activation = "sigmoid" if volumes.input.shape[1] == 1 else "softmax"
        sums = volumes.sums(tuple(dict.fromkeys(terms)), ce_activation=activation, every=True)
        dice = self.dice._of(volumes.share(sums), volumes)
        entropy = self._entropy(sums, volumes)
        return weighted_sum((self.lambda_dice, self.lambda_ce), dice, entropy, volumes.dtype)

    def ce(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of logits ``[B, C, *S]``."""
        value, dtype = self._own_entropy_of(plain(input), plain(target))
        return value.to(dtype)

    def bce(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the binary cross-entropy of logits ``[B, 1, *S]``."""
        value, dtype = self._own_entropy_of(plain(input), plain(target))
        return value.to(dtype)

    def _entropy_of(self, input: Tensor, target: Tensor) -> tuple[Tensor, torch.dtype]:
        """Return the cross-entropy, and the dtype in which it is to come out."""
        if self._is_own(input):
            return self._own_entropy_of(input, target)
        value = self.bce(input, target) if input.shape[1] == 1 else self.ce(input, target)
        return value, value.dtype

    def _is_own(self, input: Tensor) -> bool:
        """Whether no subclass has another cross-entropy."""
        if input.shape[1] == 1:
            return type(self).bce is DiceCELoss.bce
        return type(self).ce is DiceCELoss.ce

    def _own_entropy_of(self, input: Tensor, target: Tensor) -> tuple[Tensor, torch.dtype]:
        one = input.shape[1] == 1
        labels = target.shape[1] == 1 and not one
        t = target.squeeze(1) if labels else target
        if not self._is_over_sums(input, dense=not labels):
            t = t.long() if labels else t if t.is_floating_point() else t.to(input.dtype)
            value = self.binary_cross_entropy(input, t) if one else self.cross_entropy(input, t)
            return value, value.dtype
        dtype = result_dtype(input) if labels else result_dtype(input, target)
        ignored = comparable(self.cross_entropy.ignore_index, t) if labels else None
        activation = "sigmoid" if one else "softmax"
        volumes = Volumes(input, activation, t, ignore_index=ignored, dtype=dtype)
        sums = volumes.sums(self._entropy_terms(volumes), every=True)
        return self._entropy(sums, volumes), dtype

    def _shares(self, volumes: Volumes) -> bool:
        """Whether the cross-entropy is one of sums that the pass of Dice can give as well."""
        if volumes.activation == "probabilities" or volumes.weight is not None:
            return False
        dense = volumes.target.dim() == volumes.input.dim()
        if not self._is_own(volumes.input) or not self._is_over_sums(volumes.input, dense=dense):
            return False
        if volumes.input.shape[1] == 1:
            return volumes.ignore_index is None
        ignored = NO_INDEX if self.dice.ignore_index is None else self.dice.ignore_index
        return dense or self.cross_entropy.ignore_index == ignored

    def _is_over_sums(self, x: Tensor, *, dense: bool) -> bool:
        """Whether the cross-entropy is torch's, with options that sums over voxels can serve."""
        if x.shape[1] == 1:
            binary = self.binary_cross_entropy
            if type(binary) is not nn.BCEWithLogitsLoss or binary.weight is not None:
                return False
            fits = binary.pos_weight is None or binary.pos_weight.numel() == 1
            return fits and binary.reduction in REDUCED
        loss = self.cross_entropy
        if type(loss) is not nn.CrossEntropyLoss or not x.is_floating_point():
            return False
        if dense and loss.ignore_index >= 0:
            return False  # which torch refuses
        fits = loss.weight is None or loss.weight.shape == x.shape[1:2]
        return fits and loss.reduction in REDUCED and 0 <= loss.label_smoothing <= 1

    def _entropy_terms(self, volumes: Volumes) -> tuple[str, ...]:
        """Return the sums that the cross-entropy needs."""
        if volumes.input.shape[1] == 1:
            return ("nll", "nll_neg")
        terms = ("nll", "nll_all") if self.cross_entropy.label_smoothing else ("nll",)
        return terms if volumes.target.dim() == volumes.input.dim() else (*terms, "target")

    def _entropy(self, sums: RegionSums, volumes: Volumes) -> Tensor:
        """Return torch's cross-entropy, float64, given the sums of all classes."""
        if volumes.input.shape[1] == 1:
            return self._binary_entropy(sums, volumes)
        loss, nll = self.cross_entropy, sums.nll
        if loss.label_smoothing:
            share = loss.label_smoothing
            nll = (1 - share) * nll + share / nll.shape[1] * sums.nll_all
        weight = None if loss.weight is None else loss.weight.to(nll)
        total = (nll if weight is None else nll * weight).sum()
        if loss.reduction == "sum":
            return total
        if volumes.target.dim() == volumes.input.dim():
            return total / (volumes.input.numel() // nll.shape[1])
        return total / (sums.target if weight is None else sums.target * weight).sum()

    def _binary_entropy(self, sums: RegionSums, volumes: Volumes) -> Tensor:
        loss, positive = self.binary_cross_entropy, sums.nll
        if loss.pos_weight is not None:
            positive = positive * loss.pos_weight.to(positive).view(1)
        total = (positive + sums.nll_neg).sum()
        return total if loss.reduction == "sum" else total / volumes.input.numel()


def unrounded(
    region: nn.Module, input: Tensor, target: Tensor, volumes: Volumes | None = None
) -> tuple[Tensor, torch.dtype]:
    """Return the loss of a region before it is rounded, and the dtype in which it would come out.

    Args:
        region: A Dice loss of this package, or any other loss.
        input: ``[B, C, *S]``.
        target: As the loss takes it.
        volumes: What a Dice loss of this package makes of both, if it has been made.
    """
    if type(region) is DiceLoss:
        volumes = volumes or region._volumes(input, target, region.ignore_index)
    elif type(region) is GeneralizedDiceLoss:
        volumes = region._volumes(input, target)
    else:
        value: Tensor = region(input, target)
        return value, value.dtype
    return region._of(volumes.sums(region._terms(volumes)), volumes), volumes.dtype


def weighted_sum(
    factors: tuple[float, float], first: Tensor, second: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return the sum of two losses as it is of the modules of both, rounded to float32 first."""
    wide = torch.promote_types(dtype, torch.float32)
    total: Tensor = _times(factors[0], first.to(wide)) + _times(factors[1], second.to(wide))
    return total.to(dtype)


def _times(factor: float, value: Tensor) -> Tensor:
    return value if type(factor) is float and factor == 1 else factor * value


def check_lambdas(**factors: float) -> None:
    """Raise ValueError if one is negative."""
    for name, factor in factors.items():
        if factor < 0:
            raise ValueError(f"{name} must not be negative, got {factor}")
