"""clDice, which compares skeletons with masks, alone and with Dice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss_fast._check import check_number, widen
from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._keywords import RECORDS, Region, RegionKeywords, Voxel
from segloss_fast.losses._maps import activated, values_where_counted, widened
from segloss_fast.losses._module import Loss
from segloss_fast.losses._reduce import Part, class_weights, divide, finish, ratio
from segloss_fast.losses.boundary import check_tensors, masks_of_target
from segloss_fast.losses.region import dice_part
from segloss_fast.ops.region_sums import RegionSums, region_sums
from segloss_fast.ops.soft_skeleton import soft_skeleton

EPSILON = 1e-4  # of the harmonic mean, as MONAI's
# Sums over the predicted skeleton (t in it, all of it) and the target's (p in it, all of it), and
# two that say which items and classes there are.
ROWS = ("precise", "predicted", "sensitive", "true", "present", "counted")


class SkeletonKeywords(RegionKeywords, total=False):
    """Those of region losses, with other defaults."""


@dataclass(frozen=True)
class Skeleton(Region):
    """Checked SkeletonKeywords."""

    smooth_dr: float = 1.0
    smooth_nr: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.whole()


RECORDS["Skeleton"] = Skeleton


@loss_function
def soft_cl_dice_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    iterations: int = 3,
    **keywords: Unpack[SkeletonKeywords],
) -> Tensor:
    """Functional form of :class:`SoftClDiceLoss`."""
    checked = Skeleton(**keywords)
    _check_iterations(iterations)
    sums = _skeleton_sums(input, target, voxel_weight, iterations, checked)
    # Its one row per item has no background to leave out.
    return finish([_part(checked)], sums, input, checked, has_background_row=True)


class SoftClDiceLoss(Loss):
    """Soft centreline Dice, for tubular structures: vessels, airways, neurites.

    >>> loss = segloss_fast.SoftClDiceLoss(activation="sigmoid", iterations=1)
    >>> loss(torch.zeros(1, 1, 4, 4), torch.eye(4)[None, None])
    tensor(0.2500)

    ``1 - 2 P S / (P + S + 1e-4)`` per item, with s_p and s_t the soft skeletons of prediction and
    target (formula: :mod:`segloss_fast.ops.soft_skeleton`), P = ``(sum s_p t + smooth_nr) /
    (sum s_p + smooth_dr)``, how much of the predicted skeleton lies in the target, and
    S = ``(sum s_t p + smooth_nr) / (sum s_t + smooth_dr)``. The sums run over voxels and classes,
    those of a class times its weight (with ``absent="skip"`` or ``"zero"``
    only classes that the item has).
    s_t is a constant of the gradient. Equal to MONAI's of the same name, so that a perfect
    prediction has a loss of 5e-5. Source: Shit et al. 2021, https://arxiv.org/abs/2003.07311.

    Ignored voxels are outside of all classes when skeletons are formed. A voxel weight weighs the
    sums, not the skeletons. Backward forms the predicted skeleton again: on the CPU 13 bytes per
    logit of four classes at 128^3 are alive besides input and gradient; in Triton about 20 of four
    classes and three iterations, by counting (see :mod:`segloss_fast.ops.soft_skeleton`). Where
    skeletons have no kernels PyTorch forms them, on a large volume one class at a time.

    Args:
        iterations: Number of erosions, at least 0; half the width, in voxels, of the thickest
            structure.
        **keywords: The common keywords of region losses, see :mod:`segloss_fast.losses`, with
            ``smooth_nr`` and ``smooth_dr`` 1 by default. The reduction is over items; "none" gives
            ``[B, 1]`` (``[1]`` with ``batch=True``).

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    def __init__(self, *, iterations: int = 3, **keywords: Unpack[SkeletonKeywords]) -> None:
        Skeleton(**keywords)
        _check_iterations(iterations)
        super().__init__(soft_cl_dice_loss, iterations=iterations, **keywords)


@loss_function
def soft_dice_cl_dice_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    alpha: float = 0.5,
    iterations: int = 3,
    **keywords: Unpack[SkeletonKeywords],
) -> Tensor:
    """Functional form of :class:`SoftDiceClDiceLoss`."""
    checked = Skeleton(**keywords)
    _check_iterations(iterations)
    check_number("alpha", alpha, minimum=0, maximum=1)
    skeletons = _skeleton_sums(input, target, voxel_weight, iterations, checked)
    dice = region_sums(
        input,
        target,
        activation=checked.activation,
        terms=("tp", "pred", "target", "weight"),
        voxel_weight=voxel_weight,
        ignore_index=checked.ignore_index,
        impl=checked.impl,
    )
    sums = RegionSums((*dice.terms, *ROWS), torch.cat([dice.rows, skeletons.rows]))
    parts = [
        dice_part(checked, True, False, 1 - alpha),
        _part(checked, alpha),
    ]
    return finish(parts, sums, input, checked, has_background_row=checked.include_background)


class SoftDiceClDiceLoss(Loss):
    """``(1 - alpha) * DiceLoss + alpha * SoftClDiceLoss``, both with the same smoothing.

    >>> loss = segloss_fast.SoftDiceClDiceLoss(activation="sigmoid", iterations=1)
    >>> loss(torch.zeros(1, 1, 4, 4), torch.eye(4)[None, None])
    tensor(0.4327)

    Equal to MONAI's of the same name for the reductions "mean" and "sum". The rows of "none" are
    those of Dice, ``[B, C']``, each with the clDice of its item. Source: Shit et al. 2021,
    https://arxiv.org/abs/2003.07311.

    Args:
        alpha: Weight of clDice, in [0, 1].
        iterations: As in :class:`SoftClDiceLoss`.
        **keywords: As in :class:`SoftClDiceLoss`; classes are weighed in Dice as in
            :class:`DiceLoss`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    def __init__(
        self, *, alpha: float = 0.5, iterations: int = 3, **keywords: Unpack[SkeletonKeywords]
    ) -> None:
        Skeleton(**keywords)
        _check_iterations(iterations)
        check_number("alpha", alpha, minimum=0, maximum=1)
        super().__init__(soft_dice_cl_dice_loss, alpha=alpha, iterations=iterations, **keywords)


def _check_iterations(iterations: int) -> None:
    if not isinstance(iterations, int) or isinstance(iterations, bool):
        raise TypeError(f"iterations must be an int, got {type(iterations).__name__}")
    if iterations < 0:
        raise ValueError(f"iterations must be at least 0, got {iterations}")


def _skeleton_sums(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    iterations: int,
    keywords: Region,
) -> RegionSums:
    """Return ROWS, ``[6, B, C]``."""
    labels = check_tensors(input, target, voxel_weight, None, keywords)
    first = 0 if keywords.include_background else 1

    def sums(
        values: Tensor, activation: str, terms: tuple[str, ...], weight: Tensor | None
    ) -> Tensor:
        return region_sums(
            values,
            target,
            activation=activation,
            terms=terms,
            voxel_weight=weight,
            ignore_index=keywords.ignore_index,
            impl=keywords.impl,
        ).rows

    p = activated(*widened(input, labels, keywords), keywords.activation)
    skeleton = soft_skeleton(p, iterations, first=first, impl=keywords.impl)
    # Not pred itself: where the target fills the item the gradient of precision would vanish in it.
    terms = ("tp", "fp", "target", "weight")
    of_prediction = sums(skeleton, "probabilities", terms, voxel_weight)
    # Last, so that backward begins here, and its weights are gone when skeletons are formed again.
    weight = _target_skeleton(input, labels, iterations, keywords)
    if voxel_weight is not None:
        weight = widen(weight) * widen(voxel_weight)
    of_target = sums(input, keywords.activation, ("pred", "weight"), weight)
    precise, predicted = of_prediction[:1], of_prediction[:2].sum(0, keepdim=True)
    rows = torch.cat([precise, predicted, of_target, of_prediction[2:]])
    return RegionSums(ROWS, rows)


def _target_skeleton(input: Tensor, labels: Tensor, iterations: int, keywords: Voxel) -> Tensor:
    """Return the target's skeletons as weights, ``[B, C, *S]``, with the gradient of a target."""
    first = 0 if keywords.include_background else 1
    if labels.dim() < input.dim():
        masks = masks_of_target(input, labels, keywords)
        return soft_skeleton(masks, iterations, first=first, impl=keywords.impl)  # bytes
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    values = values_where_counted(input, labels, keywords).to(dtype)
    return soft_skeleton(values, iterations, first=first, impl=keywords.impl)


def _part(keywords: Region, factor: float = 1.0) -> Part:
    """Return clDice as a summand; for the reduction "none" its value is ``[B', 1]``."""

    def value(sums: RegionSums) -> Tensor:
        start = 0 if keywords.include_background else 1
        found = {name: sums.rows[sums.terms.index(name)][:, start:] for name in ROWS}
        weight = class_weights(keywords.class_weight, "class_weight", sums.rows[0])
        factors = torch.ones_like(found["true"])
        if weight is not None:
            factors = factors * weight[start:]
        if keywords.absent != "keep":
            factors = factors * (found["present"] != 0)

        def total(name: str) -> Tensor:
            return (factors * found[name]).sum(1, keepdim=True)

        smooth = keywords.smooth_nr, keywords.smooth_dr
        precision = ratio(total("precise"), total("predicted"), *smooth)
        sensitivity = ratio(total("sensitive"), total("true"), *smooth)
        loss = 1 - divide(2 * precision * sensitivity, precision + sensitivity + EPSILON)
        loss = torch.where((found["counted"] != 0).any(1, keepdim=True), loss, 0)
        if keywords.absent == "zero":
            loss = loss * (found["present"] != 0).any(1, keepdim=True)
        if keywords.reduction == "none":
            return loss
        return loss.sum() if keywords.reduction == "sum" or loss.numel() == 0 else loss.mean()

    return Part(ROWS, value, factor)
