"""TopK losses: cross-entropy of the hardest voxels, alone and with Dice."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss_fast._check import check_flag, check_number
from segloss_fast._sync import Ranks
from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._keywords import (
    Overlap,
    OverlapKeywords,
    Voxel,
    VoxelKeywords,
)
from segloss_fast.losses._module import Loss
from segloss_fast.losses._reduce import Part, check_classes, class_weights, divide, evaluate
from segloss_fast.losses.distribution import is_categorical
from segloss_fast.losses.region import dice_part, needs_counts
from segloss_fast.ops._voxels.checks import check_target, check_voxel_weight
from segloss_fast.ops._voxels.maps import row_dtype
from segloss_fast.ops.hardest_voxels import Rule, hardest_voxels
from segloss_fast.ops.region_sums import RegionSums


@loss_function
def topk_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    k: float = 10.0,
    **keywords: Unpack[VoxelKeywords],
) -> Tensor:
    """Functional form of :class:`TopKLoss`."""
    checked = Voxel(**keywords)
    check_k(k)
    return _evaluate(input, target, voxel_weight, k, checked)


def check_k(k: float) -> None:
    """Raise unless ``k`` is a percentage."""
    check_number("k", k, minimum=0, maximum=100)
    if k == 0:
        raise ValueError("k must be greater than 0, got 0")


def _evaluate(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    k: float,
    keywords: Voxel,
    factor: float = 1.0,
) -> Tensor:
    """Find the hardest voxels, then sum over them alone."""
    check_classes(input, keywords)
    labels = check_target(input, target, keywords.ignore_index)
    if voxel_weight is not None:
        check_voxel_weight(input, voxel_weight)
    like = input.new_empty((1, input.shape[1]), dtype=row_dtype(input.device))
    rule = Rule(
        k,
        keywords.activation,
        0 if keywords.include_background else 1,
        class_weights(keywords.class_weight, "class_weight", like),
        keywords.ignore_index,
    )
    ranks = keywords.ranks(input)
    add = None if ranks is None else _Adder(ranks)
    field, selected = hardest_voxels(input, labels, voxel_weight, rule, add=add, impl=keywords.impl)
    count = selected.sum(0, keepdim=True) if keywords.pools else selected
    count = count if ranks is None else ranks.add(count, keywords.kind("selected"))
    categorical = is_categorical(keywords.activation, input)
    part = Part(
        ("nll",) if categorical else ("nll", "nll_neg"),
        lambda sums: _reduce(sums, count[:, None], keywords, categorical),
        factor,
    )
    return evaluate(
        [part],
        input,
        target,
        voxel_weight,
        keywords,
        has_background_row=keywords.include_background,
        field=field,
    )


class _Adder:
    """Adds counts over the ranks, of which the first addition finds out whether they agree."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.agreed = False

    def __call__(self, counts: Tensor) -> Tensor:
        if self.agreed:
            return self.ranks.add_more(counts)
        self.agreed = True
        return self.ranks.add(counts, "counted", first_of_many=True)


def _reduce(sums: RegionSums, count: Tensor, keywords: Voxel, categorical: bool) -> Tensor:
    """Reduce the sums over the hardest voxels, ``[B', C]``, of which there are ``[B', 1]``."""
    parts = sums.nll if categorical else sums.nll + sums.nll_neg
    weight = class_weights(keywords.class_weight, "class_weight", parts)
    parts = parts if weight is None else parts * weight
    if not keywords.include_background:  # left out, not weighted 0, which would keep a NaN
        parts, weight = parts[:, 1:], None if weight is None else weight[1:]
    if keywords.reduction == "sum":
        return parts.sum()
    if not categorical:  # the mean over the classes, too
        count = count * (parts.shape[1] if weight is None else weight.sum())
    if keywords.reduction == "mean":
        return divide(parts.sum(), count.sum())
    rows = divide(parts, count)
    if keywords.include_background:
        return rows
    return torch.cat([torch.zeros_like(rows[:, :1]), rows], 1)


class TopKLoss(Loss):
    """The mean of the largest ``k`` percent of the voxels' cross-entropies.

    >>> loss = segloss_fast.TopKLoss(k=25)
    >>> loss(torch.tensor([[[0.0, 0.0, 0.0, 2.0], [0.0] * 4]]), torch.tensor([[0, 0, 0, 1]]))
    tensor(2.1269)

    Of the voxels of the whole batch that count, at least one; those that are equal to the last one
    share what is left of the ``k`` percent, so that the order of the voxels does not matter.
    Softmax: a voxel's cross-entropy is ``-v_y w log p_y``, y its class, v the class weights, w the
    voxel weight; class weights multiply, and do not divide the mean, as in nnU-Net. Sigmoid: the
    mean over the classes (weighted by v) of the binary cross-entropies. A voxel counts unless it is
    ignored, has weight 0, or (softmax, ``include_background=False``) is of the background. The
    reduction "none" gives the mean over the item's hardest voxels, which are those of the batch.
    Which voxels are the hardest is decided in float32 (float64 for float64 input) and is a
    constant of the gradient. Source: Wu et al. 2016, https://arxiv.org/abs/1605.06885.

    Args:
        k: Percentage of the voxels, in (0, 100].
        **keywords: The common keywords of voxel losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    def __init__(self, *, k: float = 10.0, **keywords: Unpack[VoxelKeywords]) -> None:
        Voxel(**keywords)
        check_k(k)
        super().__init__(topk_loss, k=k, **keywords)


@loss_function
def dice_topk_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    k: float = 10.0,
    lambda_dice: float = 1.0,
    lambda_topk: float = 1.0,
    squared: bool = False,
    **keywords: Unpack[OverlapKeywords],
) -> Tensor:
    """Functional form of :class:`DiceTopKLoss`."""
    checked = Overlap(**keywords)
    _check_dice_topk(k, lambda_dice, lambda_topk)
    counts = needs_counts(checked, input, voxel_weight)
    dice = evaluate(
        [dice_part(checked, counts, squared, lambda_dice)],
        input,
        target,
        voxel_weight,
        checked,
        has_background_row=True,
    )
    all_classes = replace(checked, include_background=True)
    return dice + _evaluate(input, target, voxel_weight, k, all_classes, lambda_topk)


def _check_dice_topk(k: float, lambda_dice: float, lambda_topk: float) -> None:
    check_k(k)
    check_number("lambda_dice", lambda_dice)
    check_number("lambda_topk", lambda_topk)


class DiceTopKLoss(Loss):
    """``lambda_dice * DiceLoss + lambda_topk * TopKLoss``.

    >>> loss = segloss_fast.DiceTopKLoss(k=25)
    >>> loss(torch.tensor([[[0.0, 0.0, 0.0, 2.0], [0.0] * 4]]), torch.tensor([[0, 0, 0, 1]]))
    tensor(2.8026)

    As in nnU-Net, ``include_background=False`` leaves the background out of Dice only.

    Args:
        k: As in :class:`TopKLoss`.
        lambda_dice: Factor of Dice.
        lambda_topk: Factor of TopK.
        squared: As in :class:`DiceLoss`.
        **keywords: The common keywords of region losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    def __init__(
        self,
        *,
        k: float = 10.0,
        lambda_dice: float = 1.0,
        lambda_topk: float = 1.0,
        squared: bool = False,
        **keywords: Unpack[OverlapKeywords],
    ) -> None:
        Overlap(**keywords)
        _check_dice_topk(k, lambda_dice, lambda_topk)
        check_flag("squared", squared)
        super().__init__(
            dice_topk_loss,
            k=k,
            lambda_dice=lambda_dice,
            lambda_topk=lambda_topk,
            squared=squared,
            **keywords,
        )
