"""Lovász losses: the Jaccard loss of sets of voxels, extended to errors between 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss_fast._check import check_flag, check_ignore_index, check_number, check_option
from segloss_fast._impl import check_impl
from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._keywords import RECORDS, REDUCTIONS, Voxel, Weights, check_weights
from segloss_fast.losses._module import Loss
from segloss_fast.losses._reduce import check_classes, class_weights, divide, reduce_voxel
from segloss_fast.ops.lovasz import LovaszSums, check_method, layout, lovasz

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Classes = str | Sequence[int]


class LovaszKeywords(TypedDict, total=False):
    """Keywords of every Lovász loss but ``classes``, see :mod:`segloss_fast.losses`."""

    per_image: bool
    include_background: bool
    class_weight: Weights | None
    ignore_index: int | None
    reduction: str
    ce_weight: float
    method: str
    bins: int | None
    sync: bool | str | ProcessGroup
    shards: bool
    impl: str


@dataclass(frozen=True)
class Lovasz:
    """Checked LovaszKeywords, and classes."""

    classes: Classes
    per_image: bool = False
    include_background: bool = True
    class_weight: Weights | None = None
    ignore_index: int | None = None
    reduction: str = "mean"
    ce_weight: float = 0.0
    method: str = "auto"
    bins: int | None = None
    sync: bool | str | ProcessGroup = False
    shards: bool = False
    impl: str = "auto"

    def __post_init__(self) -> None:
        _check_classes(self.classes)
        check_flag("per_image", self.per_image)
        check_flag("include_background", self.include_background)
        check_weights("class_weight", self.class_weight)
        check_ignore_index(self.ignore_index)
        check_option("reduction", self.reduction, REDUCTIONS)
        check_number("ce_weight", self.ce_weight, minimum=0)
        check_method(self.method, self.sync, self.shards, self.per_image)
        layout(self.bins)
        check_impl(self.impl)


RECORDS["Lovasz"] = Lovasz


def _check_classes(classes: object) -> None:
    if isinstance(classes, str):
        if classes not in ("present", "all"):
            raise ValueError(
                f"classes must be 'present', 'all' or a sequence of class indices, got {classes!r}"
            )
        return
    if not isinstance(classes, Sequence) or not all(type(c) is int for c in classes):
        raise TypeError(
            f"classes must be 'present', 'all' or a sequence of class indices, got {classes!r}"
        )
    if not classes or len(set(classes)) < len(classes) or min(classes) < 0:
        raise ValueError(f"classes must hold different indices of at least 0, got {list(classes)}")


def _evaluate(
    activation: str, input: Tensor, target: Tensor, voxel_weight: object, keywords: Lovasz
) -> Tensor:
    """Return the mean over the classes of one of the Lovász losses, with cross-entropy."""
    if voxel_weight is not None:
        raise ValueError(
            "voxel_weight must be None: a Lovász loss orders the voxels by their errors and has no "
            "weight per voxel; use ignore_index or class_weight"
        )
    ce = Voxel(class_weight=keywords.class_weight, reduction=keywords.reduction)
    check_classes(input, Voxel(include_background=keywords.include_background))
    chosen = _chosen(keywords, input.shape[1])
    sums = lovasz(
        input,
        target,
        activation=activation,
        method=keywords.method,
        bins=keywords.bins,
        per_image=keywords.per_image,
        ignore_index=keywords.ignore_index,
        cross_entropy=keywords.ce_weight > 0,
        sync=keywords.sync,
        shards=keywords.shards,
        impl=keywords.impl,
    )
    loss = _reduce(sums, chosen, keywords)
    if sums.cross_entropy is not None:
        norm = sums.target if activation == "softmax" else sums.weight
        loss = loss + keywords.ce_weight * reduce_voxel(sums.cross_entropy, norm, ce)
    elif keywords.reduction == "none" and not keywords.include_background:
        loss = loss[:, 1:]
    if keywords.reduction == "none" and not keywords.per_image:
        loss = loss.squeeze(0)
    return loss.to(torch.float64 if input.dtype == torch.float64 else torch.float32)


def _chosen(keywords: Lovasz, classes: int) -> list[int]:
    """Return the indices of the classes whose loss counts."""
    first = 0 if keywords.include_background else 1
    if isinstance(keywords.classes, str):
        return list(range(first, classes))
    if max(keywords.classes) >= classes:
        raise ValueError(
            f"classes must hold indices in [0, {classes}), got {list(keywords.classes)}"
        )
    chosen = [c for c in keywords.classes if c >= first]
    if not chosen:
        raise ValueError(
            f"include_background=False leaves no class of classes, got {list(keywords.classes)}"
        )
    return chosen


def _reduce(sums: LovaszSums, chosen: list[int], keywords: Lovasz) -> Tensor:
    """Reduce the loss over the chosen classes, and over the images."""
    loss = sums.loss
    weight = class_weights(keywords.class_weight, "class_weight", loss)
    weight = torch.ones_like(loss) if weight is None else weight.expand_as(loss)
    if keywords.classes == "present":
        weight = weight * sums.present
    if keywords.reduction == "none":
        # Left out, not weighted 0, which would keep a NaN.
        rows = (loss * weight).unbind(1)
        zero = torch.zeros_like(rows[0])
        return torch.stack([row if c in chosen else zero for c, row in enumerate(rows)], 1)
    if len(chosen) < loss.shape[1]:
        loss = torch.stack([loss[:, c] for c in chosen], 1)
        weight = torch.stack([weight[:, c] for c in chosen], 1)
    weighted = (loss * weight).sum(1)
    if keywords.reduction == "sum":
        return weighted.sum()
    return divide(weighted, weight.sum(1)).sum() / max(loss.shape[0], 1)


@loss_function
def lovasz_softmax_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: None = None,
    *,
    classes: Classes = "present",
    **keywords: Unpack[LovaszKeywords],
) -> Tensor:
    """Functional form of :class:`LovaszSoftmaxLoss`."""
    checked = Lovasz(classes, **keywords)
    return _evaluate("softmax", input, target, voxel_weight, checked)


class _LovaszLoss(Loss):
    shares_sums = False  # region_sums has no part in it


class LovaszSoftmaxLoss(_LovaszLoss):
    """Lovász-softmax: the Jaccard loss of each class, extended to the softmax, mean over classes.

    >>> loss = segloss_fast.LovaszSoftmaxLoss()
    >>> loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]]))
    tensor(0.5000)

    Per class the sum of ``abs(t - p) g``, g what each voxel adds to ``1 - intersection / union`` in
    the order of falling errors (:mod:`segloss_fast.ops.lovasz`). Values of a dense target count as
    foreground above one half. Source: Berman et al. 2018, https://arxiv.org/abs/1705.08790.

    Args:
        classes: The mean runs over the classes that are ``"present"`` in the target of the image,
            or of the batch where it is pooled (default, as published); over ``"all"``; or over
            those of a list, present or not.
        **keywords: The keywords of Lovász losses, see :mod:`segloss_fast.losses`. The cross-entropy
            of ``ce_weight`` is that of :class:`CrossEntropyLoss`: the mean over the voxels.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    def __init__(self, *, classes: Classes = "present", **keywords: Unpack[LovaszKeywords]) -> None:
        Lovasz(classes, **keywords)
        super().__init__(lovasz_softmax_loss, classes=classes, **keywords)


@loss_function
def lovasz_sigmoid_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: None = None,
    *,
    classes: Classes = "all",
    **keywords: Unpack[LovaszKeywords],
) -> Tensor:
    """Functional form of :class:`LovaszSigmoidLoss`."""
    checked = Lovasz(classes, **keywords)
    return _evaluate("sigmoid", input, target, voxel_weight, checked)


class LovaszSigmoidLoss(_LovaszLoss):
    """Lovász loss of one or several sigmoids: multi-label, classes may overlap.

    >>> loss = segloss_fast.LovaszSigmoidLoss()
    >>> loss(torch.tensor([[[-2.0, 2.0, 2.0, -2.0]]]), torch.tensor([[0, 0, 1, 1]]))
    tensor(0.6269)

    Per class the sum of ``abs(t - p) g``, as in :class:`LovaszSoftmaxLoss`, with p the sigmoid of
    the class's logit. Source: Berman et al. 2018, https://arxiv.org/abs/1705.08790.

    Args:
        classes: As in :class:`LovaszSoftmaxLoss`; ``"all"`` by default, so that a class without a
            voxel still has its false alarms corrected: its loss is its largest p.
        **keywords: The keywords of Lovász losses, see :mod:`segloss_fast.losses`. The cross-entropy
            of ``ce_weight`` is binary: the mean over voxels and classes.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    def __init__(self, *, classes: Classes = "all", **keywords: Unpack[LovaszKeywords]) -> None:
        Lovasz(classes, **keywords)
        super().__init__(lovasz_sigmoid_loss, classes=classes, **keywords)


@loss_function
def lovasz_hinge_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: None = None,
    *,
    classes: Classes = "all",
    **keywords: Unpack[LovaszKeywords],
) -> Tensor:
    """Functional form of :class:`LovaszHingeLoss`."""
    checked = Lovasz(classes, **keywords)
    return _evaluate("hinge", input, target, voxel_weight, checked)


class LovaszHingeLoss(_LovaszLoss):
    """Lovász hinge: the Jaccard loss extended to the margins of the logits.

    >>> loss = segloss_fast.LovaszHingeLoss()
    >>> loss(torch.tensor([[[-1.5, 1.5, 1.5, -1.5]]]), torch.tensor([[0, 0, 1, 1]]))
    tensor(1.6667)

    Per class the sum of ``max(0, 1 - x (2 t - 1)) g``, as in :class:`LovaszSoftmaxLoss`, for binary
    problems (C = 1) and multi-label ones. Sources: Yu & Blaschko 2015,
    https://arxiv.org/abs/1512.07797; Berman et al. 2018, https://arxiv.org/abs/1705.08790, whose
    code has ``per_image=True``.

    Args:
        classes: As in :class:`LovaszSigmoidLoss`.
        **keywords: The keywords of Lovász losses, see :mod:`segloss_fast.losses`. The cross-entropy
            of ``ce_weight`` is binary: the mean over voxels and classes.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    def __init__(self, *, classes: Classes = "all", **keywords: Unpack[LovaszKeywords]) -> None:
        Lovasz(classes, **keywords)
        super().__init__(lovasz_hinge_loss, classes=classes, **keywords)
