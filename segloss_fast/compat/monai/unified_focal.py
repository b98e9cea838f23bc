"""MONAI's asymmetric unified focal loss, from one pass."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from segloss_fast.compat._planned import planned
from segloss_fast.compat._volumes import Volumes, comparable, plain, result_dtype
from segloss_fast.compat.monai._base import check_reduction, ignored
from segloss_fast.compat.monai._labels import as_labels, check_same_shape, counted, one_hot
from segloss_fast.compat.monai._script import Scriptable
from segloss_fast.compat.monai.unified_parts import (
    AsymmetricFocalLoss,
    AsymmetricFocalTverskyLoss,
    least_of,
    sums_of_clamped,
    two_classes,
)
from segloss_fast.ops._voxels.pieces import is_plain

__all__ = ["AsymmetricFocalLoss", "AsymmetricFocalTverskyLoss", "AsymmetricUnifiedFocalLoss"]


class AsymmetricUnifiedFocalLoss(Scriptable, _Loss):
    """MONAI's AsymmetricUnifiedFocalLoss, with its arguments.

    >>> loss = segloss_fast.compat.monai.AsymmetricUnifiedFocalLoss(to_onehot_y=True)
    >>> loss(torch.full((1, 2, 4, 4), 0.5), torch.arange(16).view(1, 1, 4, 4) % 2)
    tensor(0.3808)

    ``weight * asy_focal_loss + (1 - weight) * asy_focal_tversky_loss``, both from one pass over the
    volume, of probabilities of two classes, or of one class, which gets a background. As in MONAI
    both parts are means whatever the reduction, so the result is a number.

    Raises:
        ValueError: If the reduction is unknown.
    """

    _beforehand: tuple[Tensor, ...] | None = None  # where the input will have been clamped

    def __init__(
        self,
        to_onehot_y: bool = False,
        num_classes: int = 2,
        weight: float = 0.5,
        gamma: float = 0.5,
        delta: float = 0.7,
        reduction: Any = "mean",  # noqa: ANN401
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction=check_reduction(reduction))
        self.to_onehot_y = to_onehot_y
        self.num_classes = num_classes
        self.gamma = gamma
        self.delta = delta
        self.weight = weight
        self.asy_focal_loss = AsymmetricFocalLoss(gamma=gamma, delta=delta)
        self.asy_focal_tversky_loss = AsymmetricFocalTverskyLoss(gamma=gamma, delta=delta)
        self.ignore_index = ignore_index

    @planned
    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the loss of ``[B, C, *S]`` against the same or class indices ``[B, 1, *S]``.

        Raises:
            AssertionError: If class indices have another number of channels than one.
            ValueError: If y_pred has not four or five dimensions, the shapes do not fit each
                other, or values are no class.
        """
        check_reduction(self.reduction)
        volumes = self._volumes(plain(y_pred), plain(y_true))
        focal, tversky = self.asy_focal_loss, self.asy_focal_tversky_loss
        if self._is_one_pass():
            first, second = _of_one_pass(focal, tversky, volumes, self._beforehand is not None)
            return (self.weight * first + (1 - self.weight) * second).to(volumes.dtype)
        x, t = self._dense(volumes)
        first, second = focal(x, t), tversky(x, t)
        total: Tensor = self.weight * first + (1 - self.weight) * second
        return total

    def _is_one_pass(self) -> bool:
        """Whether both parts are those of sums that they share."""
        focal, tversky = self.asy_focal_loss, self.asy_focal_tversky_loss
        usual = _is_usual(focal, AsymmetricFocalLoss)
        usual = usual and _is_usual(tversky, AsymmetricFocalTverskyLoss)
        return usual and focal.epsilon == tversky.epsilon

    def _least(self, dtype: torch.dtype) -> float | None:
        return least_of(self.asy_focal_loss.epsilon, dtype) if self._is_one_pass() else None

    def _volumes(self, y_pred: Tensor, y_true: Tensor) -> Volumes:
        """Return two classes and what they are; give MONAI's warnings and raise its errors.

        What does not count has the volumes' ``ignore_index`` if the target is class indices, else
        their ``weight``, which MONAI multiplies both with.
        """
        if y_pred.dim() not in (4, 5):
            raise ValueError(f"y_pred must have 4 or 5 dimensions, got shape {list(y_pred.shape)}")
        one = y_pred.shape[1] == 1
        if one and self.to_onehot_y:
            ignored("to_onehot_y=True")
        if one and self.ignore_index is not None:
            warnings.warn(
                "single channel prediction, `ignore_index` is applied to label-encoded targets.",
                stacklevel=4,
            )
        dtype, weight = result_dtype(y_pred, y_true), None
        if self.to_onehot_y and not one:
            y_true = as_labels(y_pred, y_true, self.num_classes)
            dtype = torch.promote_types(dtype, torch.float32)
        else:
            check_same_shape(y_pred, y_true)
            self._check_values(y_true)
        labels = y_true.dim() < y_pred.dim() or (one and not y_true.is_floating_point())
        if self.ignore_index is not None and not labels:
            weight = counted(y_pred, y_true, self.ignore_index)
        if self.ignore_index is not None:
            dtype = torch.promote_types(dtype, torch.float32 if weight is None else weight.dtype)
        if one and labels:
            y_true = y_true.squeeze(1)
        ignore_index = comparable(self.ignore_index, y_true) if labels else None
        return Volumes(y_pred, "probabilities", y_true, 0, weight, ignore_index, dtype)

    def _check_values(self, y_true: Tensor) -> None:
        """Raise MONAI's error of classes that do not exist, where Python may look at values."""
        if self.ignore_index is not None or not is_plain(y_true) or not y_true.numel():
            return
        largest = y_true.max().item()
        if y_true.shape[1] == 1:  # the background holds the rest
            largest = max(largest, 1 - y_true.min().item())
        if largest > self.num_classes - 1:
            raise ValueError(
                f"Invalid class index found. Maximum class should be {self.num_classes - 1}, "
                f"got {largest}"
            )

    def _dense(self, volumes: Volumes) -> tuple[Tensor, Tensor]:
        """Return values of two classes, where neither is what does not count."""
        x, t = two_classes(volumes.input, volumes.target)
        mask = volumes.weight
        if t.dim() < x.dim():
            if self.ignore_index is not None:
                mask = counted(x, t, self.ignore_index)
                t = torch.where(mask[:, 0] == 0, torch.zeros_like(t), t)
            t = one_hot(t, x.shape[1], torch.float32)
        return (x, t) if mask is None else (x * mask, t * mask)


def _is_usual(part: Any, kind: Any) -> bool:  # noqa: ANN401
    """Whether a part can be one of sums that both parts share."""
    usual = type(part) is kind and part.ignore_index is None and not part.to_onehot_y
    return usual and part.reduction in ("mean", "sum")


def _of_one_pass(
    focal: AsymmetricFocalLoss,
    tversky: AsymmetricFocalTverskyLoss,
    volumes: Volumes,
    within: bool,
) -> tuple[Tensor, Tensor]:
    """Return both parts, float64; ``within`` as for sums_of_clamped."""
    ignores = volumes.ignore_index is not None
    terms = ("tp", "fp", "fn", "focal", "nll", *(("weight",) if ignores else ()))
    options: Any = {"gamma": focal.gamma, "mask": "before", "within": within}
    sums = sums_of_clamped(volumes, focal.epsilon, terms, **options)
    apart: Tensor | float = 0.0
    if ignores:  # MONAI sets what is ignored to 0 and then clamps it
        voxels = volumes.input[0, 0].numel() if volumes.input.shape[0] else 0
        apart = focal.epsilon * (voxels - sums.weight[:, :2])
    return focal._of(sums, volumes), tversky._of(sums, apart)
