"""MONAI's focal loss."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.nn.modules.loss import _Loss

from segloss_fast.compat._planned import planned
from segloss_fast.compat._volumes import Volumes, comparable, plain
from segloss_fast.compat.monai._base import check_reduction, ignored
from segloss_fast.compat.monai._labels import (
    as_labels,
    check_same_shape,
    counted,
    may_be_soft,
    one_hot,
)
from segloss_fast.compat.monai._script import Scriptable
from segloss_fast.ops._voxels.pieces import is_plain
from segloss_fast.ops.region_sums import RegionSums

HARDNESS = ("target", "target_sq")  # the same numbers where each value of the target is 0 or 1


class FocalLoss(Scriptable, _Loss):
    """MONAI's FocalLoss, with its arguments.

    >>> loss = segloss_fast.compat.monai.FocalLoss(to_onehot_y=True)
    >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4))
    tensor(0.1733)

    Per voxel and class ``-(1 - q)^gamma log q``, q the probability of what is true: that of a
    sigmoid, p where the target is 1 and 1 - p where it is 0; with ``use_softmax`` that of the
    softmax where the target is 1, and nothing elsewhere. ``alpha``, a number, weighs targets of 1
    and ``1 - alpha`` those of 0 (with ``use_softmax`` the classes from 1 on, and class 0); a
    sequence weighs the targets of 1 of each class. As in MONAI the softmax without the background
    does not see its logit, "sum" is the mean over space and then the sum, ``ignore_index`` divides
    by the voxels that count and not by the classes too, and the result is float32.

    Raises:
        ValueError: If the reduction is unknown.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        gamma: float = 2.0,
        alpha: float | Sequence[float] | Tensor | None = None,
        weight: Sequence[float] | float | Tensor | None = None,
        reduction: Any = "mean",  # noqa: ANN401
        use_softmax: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction=check_reduction(reduction))
        self.include_background = include_background
        self.to_onehot_y = to_onehot_y
        self.gamma = gamma
        self.weight = weight
        self.use_softmax = use_softmax
        self.alpha: float | Tensor | None
        if alpha is None or isinstance(alpha, (float, int)):
            self.alpha = None if alpha is None else float(alpha)
        else:
            self.alpha = torch.as_tensor(alpha)
        self.register_buffer("class_weight", None if weight is None else torch.as_tensor(weight))
        self.ignore_index = ignore_index

    @planned
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits ``[B, C, *S]`` against the same or indices ``[B, 1, *S]``."""
        volumes = self._volumes(plain(input), plain(target))
        found = self._from_sums(volumes)
        return self._from_map(volumes) if found is None else found

    def _volumes(self, input: Tensor, target: Tensor) -> Volumes:
        """Return what the loss compares; give MONAI's warnings and raise its errors."""
        classes = input.shape[1]
        input = input if input.is_floating_point() else input.float()
        if classes == 1 and self.to_onehot_y:
            ignored("to_onehot_y=True")
        if classes == 1 and not self.include_background:
            ignored("include_background=False")
        if self.to_onehot_y and classes > 1:
            target = as_labels(input, target)
        else:
            check_same_shape(input, target)
        first = 0 if self.include_background or classes == 1 else 1
        ignore_index = comparable(self.ignore_index, target)
        return Volumes(input, self._activation(), target, first, None, ignore_index)

    def _activation(self) -> str:
        return "softmax" if self.use_softmax else "sigmoid"

    def _terms(self) -> tuple[str, ...]:
        """Return the sums that the loss needs."""
        return ("focal",) if self.use_softmax else ("focal", "focal_neg")

    def _is_over_sums(self, volumes: Volumes) -> bool:
        """Whether the loss of a target that is not soft is one of sums over this volume."""
        if self.reduction == "none" or not isinstance(self.gamma, (int, float)) or self.gamma < 0:
            return False
        if volumes.target.requires_grad and torch.is_grad_enabled():
            return False  # the derivative by the target is that of the formula for soft ones
        # The softmax of the other classes, and of one, has volumes of its own.
        return not self.use_softmax or (volumes.first == 0 and volumes.input.shape[1] > 1)

    def _look(self, volumes: Volumes) -> bool | None:
        """Whether to look if a target is soft, where sums are not enough; None if nobody can."""
        masked = volumes.weight is not None
        if not may_be_soft(volumes.input, volumes.target) or (self.use_softmax and not masked):
            return False
        if is_plain(volumes.input, volumes.target):
            return True
        return None if volumes.target.is_floating_point() else False

    def _from_sums(self, volumes: Volumes) -> Tensor | None:
        """Return the loss by one pass over memory, None if none can give it."""
        volumes = self._without_background(volumes)
        if not self._is_over_sums(volumes):
            return None
        masks, x, t = self.ignore_index is not None, volumes.input, volumes.target
        if self.ignore_index is not None and t.dim() == x.dim() and x.shape[1] > 1:
            mask = counted(x, t, self.ignore_index)
            dtype = torch.float64 if mask.dtype == torch.float64 else torch.float32
            volumes = replace(volumes, weight=mask, ignore_index=None, dtype=dtype)
        look = self._look(volumes)
        if look is None:
            return None
        terms = self._terms() + (HARDNESS if look else ())
        sums = volumes.sums((*terms, "weight") if masks else terms, gamma=self.gamma, every=True)
        if look and not is_hard(sums):
            return None
        count = sums.weight[:, :1] if masks else None
        return self._of(sums, volumes, count).to(volumes.dtype)

    def _without_background(self, volumes: Volumes) -> Volumes:
        """Return the volumes of the softmax of the other classes, which have no first one."""
        x, t = volumes.input, volumes.target
        if not (self.use_softmax and volumes.first) or self.ignore_index is not None:
            return volumes
        if t.dim() == x.dim():
            return replace(volumes, input=x[:, 1:], target=t[:, 1:], first=0)
        if t.dtype == torch.bool:
            t = t.to(torch.uint8)
        # The background is no class then, and is in no sum.
        none = 255 if t.dtype == torch.uint8 else -1
        return replace(volumes, input=x[:, 1:], target=t - 1, first=0, ignore_index=none)

    def _of(self, sums: RegionSums, volumes: Volumes, count: Tensor | None = None) -> Tensor:
        """Return the loss, float64, given the sums of all classes.

        Args:
            sums: With the terms of this loss.
            volumes: What they are of.
            count: The voxels that count, ``[B, 1]``; all if None.
        """
        sums = volumes.share(sums)
        alpha = self._alpha(sums.focal)
        rows = sums.focal
        if not self.use_softmax:
            negative = sums.focal_neg
            if isinstance(alpha, float):
                negative = (1 - alpha) * negative
            rows = (rows if alpha is None else alpha * rows) + negative
        elif alpha is not None:
            rows = alpha * rows
        return self._reduced(self._weighted(rows), volumes, count)

    def _alpha(self, like: Tensor) -> float | Tensor | None:
        """Return the factor of targets of 1 per class ``[C]``, or one of all under a sigmoid."""
        alpha = self.alpha
        if alpha is None:
            return None
        if isinstance(alpha, (float, int)) and self.use_softmax and not self.include_background:
            warnings.warn(
                "`include_background=False`, scalar `alpha` ignored when using softmax.",
                stacklevel=4,
            )
            return None
        classes = like.shape[1]
        if not isinstance(alpha, (float, int)):
            row = torch.as_tensor(alpha).to(like, non_blocking=True)
            if row.dim():
                if row.shape[0] != classes:
                    raise ValueError(
                        f"alpha must hold {classes} numbers, one per class, got {row.shape[0]}"
                    )
                return row
            alpha = float(row)
        if not self.use_softmax:
            return float(alpha)
        row = like.new_full((classes,), alpha)
        row[:1] = 1 - alpha
        return row

    def _weighted(self, values: Tensor) -> Tensor:
        """Return ``[B, C, ...]`` times the class weights."""
        weight = self.class_weight
        if weight is None:
            return values
        classes = values.shape[1]
        if weight.dim() and classes == 1:
            raise ValueError(
                "weight must be one number where one class has a share, "
                f"got {weight.numel()} numbers"
            )
        if weight.dim() and weight.numel() != classes:
            raise ValueError(
                f"weight must hold {classes} numbers, one per class (without the background if "
                f"include_background=False), got {weight.numel()}"
            )
        if is_plain(weight) and bool((weight < 0).any()):
            raise ValueError(f"weight must not be negative, got {weight.tolist()}")
        row = weight.to(values, non_blocking=True)
        return values * (row.view(-1, *[1] * (values.dim() - 2)) if row.dim() else row)

    def _reduced(self, rows: Tensor, volumes: Volumes, count: Tensor | None) -> Tensor:
        """Return the mean or sum of what each class of each item ``[B, C]`` sums up to."""
        space, least = volumes.input.shape[2:], torch.finfo(torch.float32).eps
        if self.reduction == "sum" and space:
            return (rows / (space.numel() if count is None else count.clamp_min(least))).sum()
        if self.reduction in ("mean", "sum"):
            voxels = rows.numel() * space.numel() if count is None else count.sum().clamp_min(least)
            return rows.sum() / voxels
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {self.reduction!r}")

    def _from_map(self, volumes: Volumes) -> Tensor:
        """Return the loss by the map of all voxels and classes, as soft targets need it."""
        x, t, first = volumes.input, volumes.target, volumes.first
        mask = None if self.ignore_index is None else counted(x, t, self.ignore_index)
        if t.dim() < x.dim():
            if self.ignore_index is not None and not 0 <= self.ignore_index < x.shape[1]:
                t = torch.where(t == self.ignore_index, torch.zeros_like(t), t)
            t = one_hot(t, x.shape[1], torch.float32)
        x, t = x[:, first:], t[:, first:]
        if mask is not None:
            x, t = x * mask, t * mask
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        values = self._map(x.to(wide), t.to(wide))
        values = values if mask is None else values * mask
        dtype = torch.float32 if mask is None or mask.dtype != torch.float64 else torch.float64
        if self.reduction == "none":
            return self._weighted(values).to(dtype)
        rows = values.flatten(2).sum(2, dtype=torch.float64) if x.dim() > 2 else values.double()
        count = None if mask is None else mask.flatten(1).sum(1, keepdim=True, dtype=torch.float64)
        return self._reduced(self._weighted(rows), volumes, count).to(dtype)

    def _map(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the loss of each voxel and class."""
        alpha = self._alpha(x)
        if isinstance(alpha, Tensor):
            alpha = alpha.view(-1, *[1] * (x.dim() - 2))
        if self.use_softmax:
            log = x.log_softmax(1)
            values = (1 - log.exp()).pow(self.gamma) * -log * t
            return values if alpha is None else alpha * values
        # MONAI's formula for soft targets: that of hard ones at x (2 t - 1).
        error = -(t * logsigmoid(x) + (1 - t) * logsigmoid(-x))
        values = (self.gamma * logsigmoid(x * (1 - 2 * t))).exp() * error
        if isinstance(alpha, Tensor):
            return torch.where(t == 1, alpha, torch.ones_like(alpha)) * values
        return values if alpha is None else (t * alpha + (1 - t) * (1 - alpha)) * values


def is_hard(sums: RegionSums) -> bool:
    """Whether all values of a target on the CPU are 0 or 1."""
    return bool((sums.target == sums.target_sq).all())
