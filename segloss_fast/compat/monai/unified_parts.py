"""The parts of MONAI's asymmetric unified focal loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from segloss_fast.compat._planned import planned
from segloss_fast.compat._volumes import HALF, Volumes, comparable, plain, result_dtype
from segloss_fast.compat.monai._base import check_reduction, ignored
from segloss_fast.compat.monai._labels import as_labels, check_same_shape, counted, one_hot
from segloss_fast.compat.monai._script import Scriptable
from segloss_fast.ops._voxels.maps import is_within
from segloss_fast.ops._voxels.pieces import PIECE, is_plain, sum_in_pieces
from segloss_fast.ops.region_sums import RegionSums

TINY = 1e-300  # a power of it is 0, to all digits of a float32


class _Part(Scriptable, _Loss):
    """What both parts have in common: their arguments, and what they compare."""

    _beforehand: tuple[Tensor, ...] | None = None  # where the input will have been clamped

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

    def _least(self, dtype: torch.dtype) -> float | None:
        return least_of(self.epsilon, dtype)

    def _volumes(self, y_pred: Tensor, y_true: Tensor) -> Volumes:
        """Return what the loss compares; give MONAI's warnings and raise its errors."""
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
        return volumes


def least_of(epsilon: float, dtype: torch.dtype) -> float | None:
    """Return the least probability, which the operator of a graph clamps an input to.

    None if it cannot, because the dtype does not hold one minus it.
    """
    return None if dtype in HALF else epsilon


def sums_of_clamped(
    volumes: Volumes,
    epsilon: float,
    terms: Sequence[str],
    *,
    gamma: float | None = None,
    mask: str = "neither",
    within: bool = False,
) -> RegionSums:
    """Return the sums of two classes or more over probabilities in [epsilon, 1 - epsilon].

    The clamped ones are made a piece at a time where they are many.

    Args:
        volumes: What is compared, perhaps of one class.
        epsilon: The least probability.
        terms: As for region_sums.
        gamma: As for region_sums.
        mask: Whether the weight multiplies input and target, "before" the first is clamped or
            "after" it, or "neither", and is that of region_sums.
        within: Whether the input will have been clamped.
    """
    plain_sums = volumes.input.shape[1] > 1 and volumes.weight is None
    if plain_sums and (within or _is_within(volumes.input, epsilon)):
        return volumes.sums(terms, gamma=gamma)

    def definition(x: Tensor, t: Tensor, w: Tensor | None) -> tuple[Tensor, Tensor]:
        x, t = two_classes(x, t)
        if w is not None and mask == "before":
            x, t, w = x * w, t * w, None
        x = x.clamp(epsilon, 1 - epsilon)
        if w is not None and mask == "after":
            x, t, w = x * w, t * w, None
        rows = replace(volumes, input=x, target=t, weight=w).sums(terms, gamma=gamma).rows
        return rows, rows.new_zeros(2)

    rows, _ = sum_in_pieces(
        definition, volumes.input, volumes.target, volumes.weight, axis=1, whole=PIECE
    )
    return RegionSums(tuple(terms), rows)


def _is_within(x: Tensor, epsilon: float) -> bool:
    """Whether values are seen to lie in [epsilon, 1 - epsilon], which a GPU would wait for."""
    return is_plain(x) and x.dtype not in HALF and is_within(x.detach(), epsilon)


def two_classes(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities in a dtype that can hold 1 - epsilon; one class gets a background."""
    x = x.float() if x.dtype in HALF else x
    if x.shape[1] > 1:
        return x, t
    return torch.cat([1 - x, x], 1), t if t.dim() < x.dim() else torch.cat([1 - t, t], 1)


class AsymmetricFocalTverskyLoss(_Part):
    """MONAI's AsymmetricFocalTverskyLoss, with its arguments.

    >>> from segloss_fast.compat.monai.unified_focal import AsymmetricFocalTverskyLoss
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

    @planned
    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        """Return the loss of ``[B, C, *S]`` against the same or class indices ``[B, 1, *S]``.

        Raises:
            AssertionError: If class indices have another number of channels than one.
            IndexError: If there are fewer than two classes.
            ValueError: If the shapes do not fit each other, or labels are no class.
        """
        volumes = self._volumes(y_pred, y_true)
        terms, within = ("tp", "fp", "fn"), self._beforehand is not None
        sums = sums_of_clamped(volumes, self.epsilon, terms, mask="after", within=within)
        return self._of(sums).to(volumes.dtype)

    def _of(self, sums: RegionSums, apart: Tensor | float = 0.0) -> Tensor:
        """Return the loss, float64.

        Args:
            sums: With tp, fp and fn.
            apart: What false positives have besides, ``[B, 2]``.
        """
        if sums.rows.shape[2] > 2:
            sums = RegionSums(sums.terms, sums.rows[:, :, :2])
        hit = sums.tp + self.epsilon
        miss = self.delta * sums.fn + (1 - self.delta) * (sums.fp + apart)
        background, foreground = (miss / (hit + miss)).unbind(1)
        # At 0, where nothing counts, a power below one has an infinite derivative; here it has 0.
        foreground = foreground.clamp_min(TINY).pow(1 - self.gamma)
        if self.reduction == "none":
            return torch.stack([background, foreground], 1)
        total = background.sum() + foreground.sum()
        return total if self.reduction == "sum" else total / (2 * len(background))


class AsymmetricFocalLoss(_Part):
    """MONAI's AsymmetricFocalLoss, with its arguments.

    >>> from segloss_fast.compat.monai.unified_focal import AsymmetricFocalLoss
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

    @planned
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
        options: Any = {"gamma": self.gamma, "within": self._beforehand is not None}
        sums = sums_of_clamped(volumes, self.epsilon, terms, **options)
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
            return total / (2 * (volumes.input.numel() // volumes.input.shape[1]))
        return total / (2 * count).clamp_min(self.epsilon)

    def _map(self, volumes: Volumes) -> Tensor:
        """Return the loss of each voxel in both classes."""
        x, t = two_classes(volumes.input, volumes.target)
        x, mask = x.clamp(self.epsilon, 1 - self.epsilon), volumes.weight
        if t.dim() < x.dim():
            if self.ignore_index is not None:
                mask = counted(x, t, self.ignore_index)
                t = torch.where(mask[:, 0] == 0, torch.zeros_like(t), t)
            t = one_hot(t, x.shape[1], torch.float32)
        log = t[:, :2] * -x[:, :2].log()
        log = log if mask is None else log * mask
        background = (1 - self.delta) * (1 - x[:, 0]).pow(self.gamma) * log[:, 0]
        return torch.stack([background, self.delta * log[:, 1]], 1)
