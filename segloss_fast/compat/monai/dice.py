"""MONAI's Dice losses."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from segloss_fast._check import as_weight, widen
from segloss_fast.compat._planned import planned
from segloss_fast.compat._volumes import Volumes, can_look, is_mask, plain
from segloss_fast.compat.monai._base import (
    MonaiLoss,
    activate,
    activation_of,
    check_activation,
    check_reduction,
    class_indices,
    one_minus,
    overlap,
    overlap_terms,
    reduce,
)
from segloss_fast.compat.monai.masked import NO_MASK, MaskedLoss, check_mask
from segloss_fast.ops.region_sums import RegionSums


class DiceLoss(MonaiLoss):
    """MONAI's DiceLoss, with its arguments.

    >>> loss = segloss_fast.compat.monai.DiceLoss(to_onehot_y=True, softmax=True)
    >>> loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4))
    tensor(0.6667)

    Per item and class ``1 - (2 tp + smooth_nr) / (pred + target + smooth_dr)``.

    Raises:
        TypeError: If ``other_act`` is not callable.
        ValueError: If more than one activation is given, or the reduction is unknown.
    """

    class_weight: Tensor | None
    _checked: tuple[int, int] | None = None  # the weight on a GPU that has no negative number

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
        weight: Sequence[float] | float | Tensor | None = None,
        soft_label: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(reduction=check_reduction(reduction))
        self._set_head(include_background, to_onehot_y, sigmoid, softmax, other_act)
        self.squared_pred = squared_pred
        self.jaccard = jaccard
        self.smooth_nr = float(smooth_nr)
        self.smooth_dr = float(smooth_dr)
        self.batch = batch
        self.ignore_index = ignore_index
        self.register_buffer("class_weight", None if weight is None else torch.as_tensor(weight))
        self.soft_label = soft_label

    @planned
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``[B, C, *S]`` against the same or class indices ``[B, 1, *S]``."""
        return self._of_volumes(self._volumes(input, target, self.ignore_index))

    def _of_volumes(self, volumes: Volumes) -> Tensor:
        sums = volumes.sums(self._terms(volumes))
        return self._of(sums, volumes).to(volumes.dtype)

    def _terms(self, volumes: Volumes) -> tuple[str, ...]:
        """Return the sums that the loss needs."""
        return overlap_terms(squared=self.squared_pred, soft=self.soft_label)

    def _of(self, sums: RegionSums, volumes: Volumes) -> Tensor:
        """Return the loss, float64, given the sums of the classes that have a share."""
        options = {"squared": self.squared_pred, "soft": self.soft_label}
        tp, pred, target = overlap(sums, volumes, self.batch, **options)
        size = pred + target
        both = 2 * (size - tp) if self.jaccard else size
        f = one_minus(2, tp + self.smooth_nr / 2, both + self.smooth_dr)
        return reduce(self._weighted(f, sums), self.reduction, volumes.input.dim() - 2)

    def _weighted(self, f: Tensor, sums: RegionSums) -> Tensor:
        """Return the losses of the classes times their weights."""
        classes = sums.rows.shape[-1]
        if self.class_weight is None or classes == 1:
            return f
        if self.class_weight.ndim == 0:  # so MONAI's checkpoints have it
            self.class_weight = self.class_weight.repeat(classes)
        elif self.class_weight.shape[0] != classes:
            raise ValueError(
                f"weight must hold {classes} numbers, one per class (without the background if "
                f"include_background=False), got {self.class_weight.shape[0]}"
            )
        self._check_weight(self.class_weight)
        return f * self.class_weight.to(f)

    def _check_weight(self, weight: Tensor) -> None:
        """Raise ValueError if a weight is negative; on a GPU, which that waits for, once each."""
        if torch.compiler.is_compiling() or self._checked == (id(weight), weight._version):
            return
        if weight.min() < 0:
            raise ValueError(f"weight must not be negative, got {weight.tolist()}")
        if weight.is_cuda:
            self._checked = id(weight), weight._version


class MaskedDiceLoss(DiceLoss):
    """MONAI's MaskedDiceLoss, with its arguments: DiceLoss of a masked input and target.

    >>> loss = segloss_fast.compat.monai.MaskedDiceLoss(sigmoid=True)
    >>> mask = torch.eye(4)[None, None]
    >>> loss(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4), mask)
    tensor(0.3333)

    The mask multiplies the activated input, and the target. So with ``to_onehot_y`` the class of
    what is masked out is 0.

    Raises:
        TypeError: If ``other_act`` is not callable.
        ValueError: If more than one activation is given, or the reduction is unknown.
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
        weight: Sequence[float] | float | Tensor | None = None,
        soft_label: bool = False,
    ) -> None:
        check_activation(sigmoid, softmax, other_act)
        super().__init__(
            include_background,
            to_onehot_y,
            squared_pred=squared_pred,
            jaccard=jaccard,
            reduction=reduction,
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            batch=batch,
            weight=weight,
            soft_label=soft_label,
        )
        self.pre_sigmoid = sigmoid
        self.pre_softmax = softmax
        self.pre_other_act = other_act
        self.spatial_weighted = MaskedLoss(functools.partial(DiceLoss.forward, self))

    @planned
    def forward(self, input: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the loss of ``[B, C, *S]`` against the same or class indices ``[B, 1, *S]``.

        Args:
            input: ``[B, C, *S]``.
            target: As for DiceLoss.
            mask: ``[B, 1, *S]`` or ``[1, 1, *S]``; without one all counts, with a warning.

        Raises:
            AssertionError: If input and target do not fit each other.
            ValueError: If the mask has another number of items, or more than one channel.
        """
        input, target = plain(input), plain(target)
        input, activation = activation_of(
            input, self.pre_sigmoid, self.pre_softmax, self.pre_other_act
        )
        if not self._in_one_pass(input, mask):
            masked: Tensor = self.spatial_weighted(activate(input, activation), target, mask)
            return masked
        if mask is None:
            warnings.warn(NO_MASK, stacklevel=2)
            volumes = dataclasses.replace(self._volumes(input, target), activation=activation)
            return self._of_volumes(volumes)
        check_mask(input, target, mask)
        mask = plain(mask).expand(input.shape[0], 1, *input.shape[2:])
        if self.to_onehot_y and input.shape[1] > 1:
            return self._of_labels(input, activation, target, mask)
        volumes = self._volumes(input, target)
        volumes = dataclasses.replace(
            volumes,
            activation=activation,
            weight=mask,
            dtype=_wider(volumes.dtype, mask),
            of_both=mask.dtype != torch.bool,
        )
        return self._of_volumes(volumes)

    def _in_one_pass(self, input: Tensor, mask: Tensor | None) -> bool:
        """Whether sums with the mask as a weight say what the loss of masked volumes is."""
        if self.sigmoid or self.softmax or self.other_act or self.ignore_index is not None:
            return False  # set on the loss by hand: they follow the mask
        if mask is None:
            return True
        sides = zip(mask.shape[2:], input.shape[2:], strict=False)
        return mask.dim() == input.dim() and all(side in (1, full) for side, full in sides)

    def _of_labels(self, input: Tensor, activation: str, target: Tensor, mask: Tensor) -> Tensor:
        """Return the loss against class indices, which the mask multiplies as numbers."""
        if mask.dtype == torch.bool or is_mask(mask):
            return self._of_chosen(input, activation, target, mask)
        class_indices(input, target)
        labels = (target * mask).to(torch.int32)
        if self.soft_label and not self.squared_pred:
            # The smaller of a fraction and a label is no multiple of it.
            return super().forward(activate(widen(input), activation) * mask, labels)
        volumes = self._volumes(input, labels)
        dtype = _wider(volumes.dtype, mask)
        volumes = dataclasses.replace(volumes, activation=activation, weight=mask, dtype=dtype)
        sums = _sums_of_labels(volumes, self._terms(volumes))
        return self._of(sums, volumes).to(dtype)

    def _of_chosen(self, input: Tensor, activation: str, target: Tensor, mask: Tensor) -> Tensor:
        """Return the loss against class indices where a mask of 0 and 1 is 1, and 0 elsewhere."""
        volumes = self._volumes(input, target)
        dtype = _wider(volumes.dtype, mask)
        weight = mask if mask.is_floating_point() else mask.half()
        volumes = dataclasses.replace(volumes, activation=activation, weight=weight, dtype=dtype)
        terms = self._terms(volumes)
        if can_look(input):
            with contextlib.suppress(ValueError):  # of labels that may be masked out
                return self._of(_sums_of_chosen(volumes, terms), volumes).to(dtype)
        volumes = dataclasses.replace(volumes, target=class_indices(input, target * mask))
        return self._of(_sums_of_chosen(volumes, terms), volumes).to(dtype)


def _wider(dtype: torch.dtype, mask: Tensor) -> torch.dtype:
    return torch.promote_types(dtype, mask.dtype) if mask.is_floating_point() else dtype


def _sums_of_labels(volumes: Volumes, terms: Sequence[str]) -> RegionSums:
    """Return sums where the weight multiplies the activated input only, for labels have it."""
    mask = volumes.weight
    assert mask is not None
    counts = dataclasses.replace(volumes, input=volumes.input.detach(), weight=None)
    squares = volumes
    if "pred_sq" in terms:  # half precision would round the gradient of each part
        volumes = dataclasses.replace(volumes, input=widen(volumes.input))
        mask = as_weight(mask)
        squares = dataclasses.replace(volumes, weight=mask * mask)
    parts = []
    for source, names in (
        (volumes, ("tp", "tp_soft", "pred")),
        (squares, ("pred_sq",)),
        (counts, ("target", "target_sq")),
    ):
        chosen = tuple(term for term in terms if term in names)
        if chosen:
            parts.append(source.sums(chosen))
    found = tuple(name for part in parts for name in part.terms)
    return RegionSums(found, torch.cat([part.rows for part in parts]))


def _sums_of_chosen(volumes: Volumes, terms: tuple[str, ...]) -> RegionSums:
    """Return sums where the weight is 0 or 1, and labels are 0 where it is 0."""
    found = volumes.sums((*terms, "weight"), every=True)
    counts = found.rows.detach()
    rest = torch.zeros_like(counts[:-1])
    size = terms.index("target_sq" if "target_sq" in terms else "target")
    rest[size, :, 0] = math.prod(volumes.input.shape[2:]) - counts[-1, :, 0]
    return volumes.share(RegionSums(terms, found.rows[:-1] + rest))
