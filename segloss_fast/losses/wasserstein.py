"""Generalised Wasserstein Dice: errors weigh by how far the confused classes are apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import Unpack

from segloss_fast._check import check_number, check_option
from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._keywords import Region, RegionKeywords
from segloss_fast.losses._module import Loss
from segloss_fast.losses._reduce import check_classes, class_weights, divide, ratio
from segloss_fast.losses._resident import resident
from segloss_fast.losses.region import needs_counts
from segloss_fast.ops.confusion_sums import confusion_sums

Matrix = Tensor | Sequence[Sequence[float]]
WEIGHTINGS = ("default", "GDL")


@loss_function
def generalized_wasserstein_dice_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    distance_matrix: Matrix | None = None,
    weighting: str = "default",
    **keywords: Unpack[RegionKeywords],
) -> Tensor:
    """Functional form of :class:`GeneralizedWassersteinDiceLoss`."""
    checked = Region(**keywords)
    check_option("weighting", weighting, WEIGHTINGS)
    if not isinstance(distance_matrix, Tensor):  # reading a tensor's values may mean waiting
        check_matrix(distance_matrix)
    check_classes(input, checked)
    sums = confusion_sums(
        input,
        target,
        activation=checked.activation,
        voxel_weight=voxel_weight,
        ignore_index=checked.ignore_index,
        impl=checked.impl,
    )
    sums = sums.sum(0, keepdim=True) if checked.batch else sums
    ranks = checked.ranks(input)
    sums = sums if ranks is None else ranks.add(sums, checked.kind("confusion"))
    error, right = _split(_matrix(distance_matrix, sums), sums, checked.activation == "softmax")
    loss = _items(error, right, sums[..., -1], weighting, checked)
    if needs_counts(checked, input, voxel_weight):
        loss = torch.where(sums[..., -1].sum(1) == 0, 0, loss)
    loss = _reduce(loss, sums[..., -1], checked)
    return loss.to(torch.float64 if input.dtype == torch.float64 else torch.float32)


def _matrix(matrix: Matrix | None, sums: Tensor) -> Tensor:
    """Return the distances ``[C, C]``, the largest of which is 1."""
    classes = sums.shape[1]
    if matrix is None:
        return 1 - torch.eye(classes, dtype=sums.dtype, device=sums.device)
    distances = resident(matrix, sums)
    if distances.shape != (classes, classes):
        raise ValueError(
            f"distance_matrix must be [{classes}, {classes}], a row and a column per class, "
            f"got shape {list(distances.shape)}"
        )
    return distances / distances.max()


def _split(distances: Tensor, sums: Tensor, adds_up: bool) -> tuple[Tensor, Tensor]:
    """Return the sums of the voxels' errors, and of 1 - error, ``[B', C]``.

    Args:
        distances: ``[C, C]``.
        sums: Of confusion_sums.
        adds_up: Whether the probabilities of a voxel add up to 1. Then what is right of a class
            is no difference, whose rounding would hide how little it may be.
    """
    confusion, target = sums[..., :-1], sums[..., -1]
    error = (distances * confusion).sum(2)
    return error, ((1 - distances) * confusion).sum(2) if adds_up else target - error


def _items(
    error: Tensor, right: Tensor, target: Tensor, weighting: str, keywords: Region
) -> Tensor:
    """Return the loss of each item, ``[B']``, given its classes' sums, ``[B', C]``."""
    weight = class_weights(keywords.class_weight, "class_weight", error)
    factor = torch.ones_like(error) if weight is None else weight.expand_as(error)
    if weighting == "GDL":
        true_factor = factor = factor / (target + 1)
    else:  # the background is no true positive
        true_factor = torch.cat([torch.zeros_like(factor[:, :1]), factor[:, 1:]], 1)
    first = 0 if keywords.include_background else 1
    error, right = error[:, first:], right[:, first:]
    factor, true_factor = factor[:, first:], true_factor[:, first:]
    true = (true_factor * right).sum(1)
    size = 2 * true + (factor * error).sum(1)
    return 1 - ratio(2 * true, size, keywords.smooth_nr, keywords.smooth_dr)


def _reduce(loss: Tensor, target: Tensor, keywords: Region) -> Tensor:
    """Reduce the loss of the items ``[B']``."""
    if keywords.absent != "keep":
        present = (target[:, 1:] != 0).any(1).to(loss)
        loss = loss * present  # not selected, so that a NaN in such an item still shows
        if keywords.absent == "skip" and keywords.reduction == "mean":
            return divide(loss.sum(), present.sum())
    if keywords.reduction == "none":
        return loss if keywords.batch else loss[:, None]
    return loss.sum() if keywords.reduction == "sum" or loss.numel() == 0 else loss.mean()


def check_matrix(matrix: object) -> None:
    """Raise unless this is None or a square matrix of distances between classes."""
    if matrix is None:
        return
    rows = matrix.tolist() if hasattr(matrix, "tolist") else matrix
    if not isinstance(rows, Sequence) or not all(isinstance(row, Sequence) for row in rows):
        raise TypeError(
            f"distance_matrix must be a matrix of numbers, or None, got {type(matrix).__name__}"
        )
    if not rows or any(len(row) != len(rows) for row in rows):
        raise ValueError(
            "distance_matrix must be square, a row and a column per class, "
            f"got rows of {[len(row) for row in rows]} numbers"
        )
    for row in rows:
        for value in row:
            check_number("distance_matrix", value, minimum=0)
    if any(row[i] != 0 for i, row in enumerate(rows)):
        raise ValueError("distance_matrix must be 0 from each class to itself, on its diagonal")
    if not any(value > 0 for row in rows for value in row):
        raise ValueError("distance_matrix must have a distance greater than 0")


class GeneralizedWassersteinDiceLoss(Loss):
    """Generalised Wasserstein Dice, ``1 - (2 T + smooth_nr) / (2 T + E + smooth_dr)`` per item.

    >>> loss = segloss_fast.GeneralizedWassersteinDiceLoss(distance_matrix=[[0, 1], [2, 0]])
    >>> loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]]))
    tensor(0.4286)

    The error of a voxel of class l is ``sum_c M[l, c] p_c``, M the distances between classes,
    divided by the largest. E sums the errors of all voxels; T sums 1 - error over the voxels of all
    classes but the background. With ``weighting="GDL"`` every class counts in T, and all its sums
    are divided by its number of voxels plus 1: then the loss is ``1 - (2 T + smooth_nr) /
    (sum_l (2 target_l - error_l) / (target_l + 1) + smooth_dr)``. Class weights multiply the sums
    of their class. ``include_background=False`` leaves out the voxels of the background. Equal to
    MONAI's of the same name. Sources: Fidon et al. 2017, https://arxiv.org/abs/1707.00478;
    Tilborghs et al. 2020 (GDL), https://arxiv.org/abs/2007.15546.

    Args:
        distance_matrix: ``[C, C]``, from the true class (row) to the predicted one (column), at
            least 0, with 0 on the diagonal. None: 1 between any two classes.
        weighting: ``"default"`` or ``"GDL"``.
        **keywords: The common keywords of region losses, see :mod:`segloss_fast.losses`. The
            reduction is over items: "none" gives ``[B, 1]`` (``[1]`` with ``batch=True``).
            ``absent="skip"`` leaves out items where no class but the background is, ``"zero"``
            counts them as 0.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have, or there is one class only.
    """

    def __init__(
        self,
        *,
        distance_matrix: Matrix | None = None,
        weighting: str = "default",
        **keywords: Unpack[RegionKeywords],
    ) -> None:
        Region(**keywords)
        check_option("weighting", weighting, WEIGHTINGS)
        check_matrix(distance_matrix)
        super().__init__(
            generalized_wasserstein_dice_loss,
            distance_matrix=distance_matrix,
            weighting=weighting,
            **keywords,
        )
