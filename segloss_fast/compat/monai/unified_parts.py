"""The parts of MONAI's asymmetric unified focal loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from segloss_fast.compat._volumes import HALF, Volumes, comparable, plain, result_dtype
from segloss_fast.compat.monai._base import check_reduction, ignored
from segloss_fast.compat.monai._labels import as_labels, check_same_shape, counted, one_hot
from segloss_fast.compat.monai._script import Scriptable
from segloss_fast.ops._reference.maps import power
from segloss_fast.ops.region_sums import RegionSums


class _Part(Scriptable, _Loss):
    """What both parts have in common: their arguments, and what they compare."""

    def _set(
        self,
        to_onehot_y: bool,
        delta: float,
        gamma: float,
        epsilon: float,
        ignore_index: int | None,
    ) -> None:
        self.to_onehot_y = to_onehot_y
        self.delta = delta
        self.gamma = gamma
        self.epsilon = epsilon
        self.ignore_index = ignore_index

    def _volumes(self, y_pred: Tensor, y_true: Tensor) -> Volumes:
        """Return what the loss compares, clamped; give MONAI's warnings and raise its errors."""
        y_pred, y_true = plain(y_pred), plain(y_true)
        classes = y_pred.shape[1]
        if classes == 1 and self.to_onehot_y:
            ignored("to_onehot_y=True")
        if self.to_onehot_y and classes > 1:
            y_true = as_labels(y_pred, y_true)
        else:
            check_same_shape(y_pred, y_true)
        if classes < 2 or y_pred.dim() < 3:
            raise IndexError(
                "y_pred must be [B, C, *S] with a background and a foreground, "
                f"got shape {list(y_pred.shape)}"
            )
        dtype = result_dtype(y_pred, y_true)
        if y_true.dim() < y_pred.dim():
            ignore_index = comparable(self.ignore_index, y_true)
            dtype = torch.promote_types(dtype, torch.float32)
            volumes = Volumes(
                y_pred, "probabilities", y_true, ignore_index=ignore_index, dtype=dtype
            )
        elif self.ignore_index is None:
            volumes = Volumes(y_pred, "probabilities", y_true, dtype=dtype)
        else:
            mask = counted(y_pred, y_true, self.ignore_index)
            dtype = torch.promote_types(dtype, mask.dtype)
            volumes = Volumes(y_pred, "probabilities", y_true, weight=mask, dtype=dtype)
        return clamped(volumes, self.epsilon)


def clamped(volumes: Volumes, epsilon: float) -> Volumes:
    """Return volumes whose input lies in [epsilon, 1 - epsilon], in a dtype that can hold both."""
    x = volumes.input.float() if volumes.input.dtype in HALF else volumes.input
    return replace(volumes, input=x.clamp(epsilon, 1 - epsilon))


def masked(volumes: Volumes) -> Volumes:
    """Return volumes without a weight, which is multiplied to both of them; it may be soft."""
    x, t, mask = volumes.input, volumes.target, volumes.weight
    if mask is None:
        return volumes
    return replace(volumes, input=x * mask, target=t * mask, weight=None)


class AsymmetricFocalTverskyLoss(_Part):
    """MONAI's AsymmetricFocalTverskyLoss, with its arguments.

    >>> from segloss_fast.compat.monai import AsymmetricFocalTverskyLoss
    >>> loss = AsymmetricFocalTverskyLoss(to_onehot_y=True)
    >>> loss(torch.full((1, 2, 4, 4), 0.5), torch.arange(16).view(1, 1, 4, 4) % 2)
    tensor(0.6704)

    Of probabilities, p in [epsilon, 1 - epsilon]: ``1 - TI`` for class 0 and ``(1 - TI)^(1 -
    gamma)`` for class 1, ``TI = (tp + epsilon) / (tp + delta FN + (1 - delta) FP + epsilon)``.
    Further classes have no share. With ``reduction="none"`` it is ``[B, 2]``.

    Raises:
        ValueError: If the reduction is unknown.
    """

    def __init__(
        self,
        to_onehot_y: bool = False,
        delta: float = 0.7,
        gamma: float = 0.75,
        epsilon: float = 1e-7,
        reduction: Any = "mean",  # noqa: ANN401
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction=check_reduction(reduction))
        self._set(to_onehot_y, delta, gamma, epsilon, ignore_index)

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the loss of ``[B, C, *S]`` against the same or class indices ``[B, 1, *S]``.

        Raises:
            AssertionError: If class indices have another number of channels than one.
            IndexError: If there are fewer than two classes.
            ValueError: If the shapes do not fit each other, or labels are no class.
        """
        volumes = self._volumes(y_pred, y_true)
        return self._of(masked(volumes).sums(("tp", "fp", "fn"))).to(volumes.dtype)

    def _of(self, sums: RegionSums, apart: Tensor | float = 0.0) -> Tensor:
        """Return the loss, float64.

        Args:
            sums: With tp, fp and fn.
            apart: What false positives have besides, ``[B, 2]``.
        """
        tp, fn, fp = sums.tp[:, :2], sums.fn[:, :2], sums.fp[:, :2] + apart
        total = tp + self.delta * fn + (1 - self.delta) * fp
        error = 1 - (tp + self.epsilon) / (total + self.epsilon)
        values = torch.stack([error[:, 0], power(error[:, 1], 1 - self.gamma)], 1)
        if self.reduction == "mean":
            return values.mean()
        return values.sum() if self.reduction == "sum" else values


class AsymmetricFocalLoss(_Part):
    """MONAI's AsymmetricFocalLoss, with its arguments.

    >>> from segloss_fast.compat.monai import AsymmetricFocalLoss
    >>> loss = AsymmetricFocalLoss(to_onehot_y=True)
    >>> loss(torch.full((1, 2, 4, 4), 0.5), torch.arange(16).view(1, 1, 4, 4) % 2)
    tensor(0.1343)

    Of probabilities, p in [epsilon, 1 - epsilon]: ``-(1 - delta) (1 - p)^gamma log p`` where class
    0 is, and ``-delta log p`` where class 1 is; the mean is over voxels and these two classes, and
    further classes have no share. With ``reduction="none"`` it is ``[B, 2, *S]``.

    Raises:
        ValueError: If the reduction is unknown.
    """

    def __init__(
        self,
        to_onehot_y: bool = False,
        delta: float = 0.7,
        gamma: float = 2,
        epsilon: float = 1e-7,
        reduction: Any = "mean",  # noqa: ANN401
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction=check_reduction(reduction))
        self._set(to_onehot_y, delta, gamma, epsilon, ignore_index)

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the loss of ``[B, C, *S]`` against the same or class indices ``[B, 1, *S]``.

        Raises:
            AssertionError: If class indices have another number of channels than one.
            IndexError: If there are fewer than two classes.
            ValueError: If the shapes do not fit each other, or labels are no class.
        """
        volumes = self._volumes(y_pred, y_true)
        if self.reduction not in ("mean", "sum"):
            return self._map(volumes).to(volumes.dtype)
        mask, count = volumes.weight, None
        terms: tuple[str, ...] = ("focal", "nll")
        if mask is not None:
            count = mask.sum(dtype=torch.float64)
            if self.reduction == "mean":  # MONAI multiplies the mask twice then; it may be soft
                volumes = replace(volumes, weight=mask * mask)
        elif volumes.ignore_index is not None:
            terms = ("focal", "nll", "weight")
        sums = volumes.sums(terms, gamma=self.gamma)
        if "weight" in terms:
            count = sums.weight[:, 0].sum()
        return self._of(sums, volumes, count).to(volumes.dtype)

    def _of(self, sums: RegionSums, volumes: Volumes, count: Tensor | None = None) -> Tensor:
        """Return the loss, float64.

        Args:
            sums: With focal and nll.
            volumes: What they are of.
            count: The number of voxels that count; all if None.
        """
        total = (1 - self.delta) * sums.focal[:, 0].sum() + self.delta * sums.nll[:, 1].sum()
        if self.reduction == "sum":
            return total
        if count is None:
            return total / (2 * volumes.input[:, 0].numel())
        return total / (2 * count).clamp_min(self.epsilon)

    def _map(self, volumes: Volumes) -> Tensor:
        """Return the loss of each voxel in both classes."""
        x, t, mask = volumes.input, volumes.target, volumes.weight
        if t.dim() < x.dim():
            if self.ignore_index is not None:
                mask = counted(x, t, self.ignore_index)
                t = torch.where(mask[:, 0] == 0, torch.zeros_like(t), t)
            t = one_hot(t, x.shape[1], torch.float32)
        log = t[:, :2] * -x[:, :2].log()
        log = log if mask is None else log * mask
        background = (1 - self.delta) * power(1 - x[:, 0], self.gamma) * log[:, 0]
        return torch.stack([background, self.delta * log[:, 1]], 1)
