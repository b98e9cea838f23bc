"""MONAI's Dice loss of a masked input and target."""

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
from segloss_fast.compat._compiled import Prepared
from segloss_fast.compat._planned import planned
from segloss_fast.compat._volumes import Volumes, can_look, is_mask, plain
from segloss_fast.compat.monai._base import activate, activation_of, check_activation, class_indices
from segloss_fast.compat.monai.dice import DiceLoss
from segloss_fast.compat.monai.masked import NO_MASK, MaskedLoss, check_mask
from segloss_fast.ops.region_sums import RegionSums, region_sums

FEW_CLASSES = 16  # whose voxels a graph counts itself, because an operator more costs it 40 us


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

    _apart = ("spatial_weighted",)  # which it does without in one pass
    _beforehand: tuple[Tensor, ...] | None = None  # in a graph, where the target is masked

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

    def _prepared(
        self, input: Tensor, target: Tensor, mask: Tensor | None = None
    ) -> Prepared | None:
        """Return what a graph computes before its operator: labels, and how often each occurs."""
        if mask is None or input.dim() < 3 or not self._in_one_pass(input, mask):
            return None
        shape = (input.shape[0], 1, *input.shape[2:])
        if mask.shape not in (shape, (1, *shape[1:])):
            return None
        whole = mask.expand(shape)
        if not self.to_onehot_y or input.shape[1] == 1:
            return (input, target, whole), ()
        if target.shape != shape:
            return None
        if mask.dtype == torch.bool:
            return (input, target * mask, whole.half()), ()
        if self.squared_pred or self.soft_label:
            return None
        labels = (target * mask).to(torch.int32)
        return (input, labels, whole), (_counts(input, labels),)

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
        chosen = mask.dtype == torch.bool or is_mask(mask)
        if chosen or self._beforehand == ():
            return self._of_chosen(input, activation, target, mask)
        class_indices(input, target)
        labels = target if self._beforehand else (target * mask).to(torch.int32)
        if self.soft_label and not self.squared_pred:
            # The smaller of a fraction and a label is no multiple of it.
            return super().forward(activate(widen(input), activation) * mask, labels)
        volumes = self._volumes(input, labels)
        dtype = _wider(volumes.dtype, mask)
        volumes = dataclasses.replace(volumes, activation=activation, weight=mask, dtype=dtype)
        sums = _sums_of_labels(volumes, self._terms(volumes), self._beforehand)
        return self._of(sums, volumes).to(dtype)

    def _of_chosen(self, input: Tensor, activation: str, target: Tensor, mask: Tensor) -> Tensor:
        """Return the loss against class indices where a mask of 0 and 1 is 1, and 0 elsewhere."""
        volumes = self._volumes(input, target)
        dtype = _wider(volumes.dtype, mask)
        weight = mask if mask.is_floating_point() else mask.half()
        volumes = dataclasses.replace(volumes, activation=activation, weight=weight, dtype=dtype)
        terms = self._terms(volumes)
        if self._beforehand is not None:
            return self._of(_sums_of_chosen(volumes, terms), volumes).to(dtype)
        if can_look(input):
            with contextlib.suppress(ValueError):  # of labels that may be masked out
                return self._of(_sums_of_chosen(volumes, terms), volumes).to(dtype)
        volumes = dataclasses.replace(volumes, target=class_indices(input, target * mask))
        return self._of(_sums_of_chosen(volumes, terms), volumes).to(dtype)


def _wider(dtype: torch.dtype, mask: Tensor) -> torch.dtype:
    return torch.promote_types(dtype, mask.dtype) if mask.is_floating_point() else dtype


def _counts(input: Tensor, labels: Tensor) -> Tensor:
    """Return how many voxels ``[B, 1, *S]`` have each class, float64 ``[B, C]``."""
    classes = input.shape[1]
    if classes > FEW_CLASSES:
        return region_sums(input.detach(), labels, terms=("target",)).target
    indices = torch.arange(classes, dtype=labels.dtype, device=labels.device)
    # int32 is what vectors add fastest.
    dtype = torch.int32 if math.prod(labels.shape[1:]) < 2**31 else torch.int64
    return (labels.flatten(2) == indices[:, None]).sum(2, dtype=dtype).to(torch.float64)


def _sums_of_labels(
    volumes: Volumes, terms: Sequence[str], known: Sequence[Tensor] | None = None
) -> RegionSums:
    """Return sums where the weight multiplies the activated input only, for labels have it.

    Args:
        volumes: What they are of.
        terms: Which.
        known: How many voxels have each class, where that is known and no square is asked for.
    """
    if known:
        of_input, (size,) = volumes.sums(("tp", "pred")), known
        of_labels = volumes.share(RegionSums(("target",), size[None]))
        return RegionSums(tuple(terms), torch.cat([of_input.rows, of_labels.rows]))
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
