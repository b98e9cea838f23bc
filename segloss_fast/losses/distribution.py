"""Distribution losses: sums of a loss per voxel. Cross-entropy, focal."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import Unpack

from segloss_fast._check import check_input, check_number, check_option
from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._keywords import Voxel, VoxelKeywords, Weights, check_weights
from segloss_fast.losses._module import Loss
from segloss_fast.losses._reduce import Part, class_weights, evaluate, reduce_voxel
from segloss_fast.ops.region_sums import ACTIVATIONS, RegionSums


def is_categorical(activation: str, input: Tensor) -> bool:
    """Whether the classes compete: softmax, or probabilities of more than one class."""
    check_input(input)
    return activation == "softmax" or (activation == "probabilities" and input.shape[1] > 1)


def is_dense(input: Tensor, target: object) -> bool:
    """Whether a target of several classes holds values, not class indices."""
    return isinstance(target, Tensor) and target.shape == input.shape


def check_cross_entropy(
    activation: str, label_smoothing: float, pos_weight: Weights | None
) -> None:
    """Raise unless these can be the options of a cross-entropy."""
    check_option("ce_activation", activation, ACTIVATIONS)
    check_number("label_smoothing", label_smoothing, minimum=0, maximum=1)
    check_weights("pos_weight", pos_weight)
    if label_smoothing and activation == "sigmoid":
        raise ValueError("label_smoothing goes with classes that compete, not with sigmoid")
    if pos_weight is not None and activation == "softmax":
        raise ValueError("pos_weight goes with activation 'sigmoid', use class_weight")


def cross_entropy_part(
    keywords: Voxel,
    categorical: bool,
    label_smoothing: float,
    pos_weight: Weights | None,
    factor: float = 1.0,
    *,
    dense: bool,
) -> Part:
    """Return cross-entropy as a summand (see :func:`cross_entropy_loss`).

    Args:
        keywords: Of the loss.
        categorical: Whether the classes compete.
        label_smoothing: See :class:`CrossEntropyLoss`.
        pos_weight: See :class:`CrossEntropyLoss`.
        factor: Of the part.
        dense: Whether the target holds values. Of all classes, their mean runs over voxels, as
            torch's does; without the background, over what the other classes have of them.
    """
    over_voxels = dense and keywords.include_background
    if not categorical:
        if label_smoothing:
            raise ValueError("label_smoothing goes with classes that compete, not with sigmoid")
        return Part(
            ("nll", "nll_neg", "weight"),
            lambda sums: reduce_voxel(_weigh_positive(sums, pos_weight), sums.weight, keywords),
            factor,
        )
    if pos_weight is not None:
        raise ValueError("pos_weight goes with activation 'sigmoid', use class_weight")

    def value(sums: RegionSums) -> Tensor:
        nll = sums.nll
        if label_smoothing:
            nll = (1 - label_smoothing) * nll + label_smoothing / nll.shape[1] * sums.nll_all
        if not over_voxels:
            return reduce_voxel(nll, sums.target, keywords)
        # Each class has its share of the voxels.
        return reduce_voxel(nll, sums.weight / nll.shape[1], keywords, weigh_norm=False)

    terms = ("nll", "nll_all") if label_smoothing else ("nll",)
    return Part((*terms, "weight" if over_voxels else "target"), value, factor)


def _weigh_positive(sums: RegionSums, pos_weight: Weights | None) -> Tensor:
    if pos_weight is None:
        return sums.nll + sums.nll_neg
    weight = class_weights(pos_weight, "pos_weight", sums.nll)
    assert weight is not None
    return weight * sums.nll + sums.nll_neg


@loss_function
def cross_entropy_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    pos_weight: Weights | None = None,
    **keywords: Unpack[VoxelKeywords],
) -> Tensor:
    """Functional form of :class:`CrossEntropyLoss`."""
    checked = Voxel(**keywords)
    check_cross_entropy(checked.activation, label_smoothing, pos_weight)
    categorical = is_categorical(checked.activation, input)
    dense = is_dense(input, target)
    part = cross_entropy_part(checked, categorical, label_smoothing, pos_weight, dense=dense)
    return evaluate([part], input, target, voxel_weight, checked)


class CrossEntropyLoss(Loss):
    """Cross-entropy.

    >>> loss = segloss_fast.CrossEntropyLoss()
    >>> loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]]))
    tensor(0.6931)

    Softmax: ``sum_c v_c nll_c / sum_c v_c target_c`` over the whole batch, v the class weights and
    nll the sum of -t log p: torch's cross_entropy with weights. Of a target of values, as torch's,
    ``sum_c v_c nll_c / N``, N the number of voxels, unless the background is left out. Sigmoid:
    binary cross-entropy, ``sum_c v_c (w_c nll_c + nll_neg_c) / sum_c v_c N``, w the positive
    weights. Probabilities are read as those of a softmax, for C = 1 as those of a sigmoid.

    Args:
        label_smoothing: Share of the target that is spread evenly over the classes, in [0, 1]
            (softmax).
        pos_weight: Factor of the voxels with t = 1, C numbers (sigmoid).
        **keywords: The common keywords of voxel losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    over_sums = True

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        pos_weight: Weights | None = None,
        **keywords: Unpack[VoxelKeywords],
    ) -> None:
        activation = Voxel(**keywords).activation
        check_cross_entropy(activation, label_smoothing, pos_weight)
        super().__init__(
            cross_entropy_loss, label_smoothing=label_smoothing, pos_weight=pos_weight, **keywords
        )


def focal_part(
    keywords: Voxel, categorical: bool, alpha: float | Weights | None, factor: float = 1.0
) -> Part:
    """Return focal loss as a summand (see :func:`focal_loss`)."""

    def value(sums: RegionSums) -> Tensor:
        positive = _alpha_row(alpha, categorical, sums.focal)
        parts = sums.focal if positive is None else positive * sums.focal
        if categorical:
            # The mean runs over voxels: each class has its share of them.
            classes = sums.focal.shape[1] - (0 if keywords.include_background else 1)
            return reduce_voxel(parts, sums.weight / classes, keywords)
        negative = 1 - alpha if isinstance(alpha, (int, float)) else 1
        return reduce_voxel(parts + negative * sums.focal_neg, sums.weight, keywords)

    terms = ("focal", "weight") if categorical else ("focal", "focal_neg", "weight")
    return Part(terms, value, factor)


def _alpha_row(
    alpha: float | Weights | None, categorical: bool, like: Tensor
) -> Tensor | float | None:
    if alpha is None or (isinstance(alpha, (int, float)) and not categorical):
        return alpha
    if isinstance(alpha, (int, float)):
        row = like.new_full((like.shape[1],), alpha)
        row[:1] = 1 - alpha
        return row
    return class_weights(alpha, "alpha", like)


def check_focal(gamma: float, alpha: float | Weights | None) -> None:
    """Raise unless gamma and alpha can be those of a focal loss."""
    check_number("gamma", gamma, minimum=0)
    if isinstance(alpha, (int, float)):
        check_number("alpha", alpha, minimum=0, maximum=1)
    else:
        check_weights("alpha", alpha)


@loss_function
def focal_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    gamma: float = 2.0,
    alpha: float | Weights | None = None,
    **keywords: Unpack[VoxelKeywords],
) -> Tensor:
    """Functional form of :class:`FocalLoss`."""
    checked = Voxel(**keywords)
    check_focal(gamma, alpha)
    part = focal_part(checked, is_categorical(checked.activation, input), alpha)
    return evaluate([part], input, target, voxel_weight, checked, gamma=gamma)


class FocalLoss(Loss):
    """Focal loss: cross-entropy times (1 - p_t)^gamma, p_t the probability of what is true.

    >>> loss = segloss_fast.FocalLoss(gamma=2.0)
    >>> loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]]))
    tensor(0.1733)

    Softmax: the mean over voxels of ``-alpha_y (1 - p_y)^gamma log p_y``, y the voxel's class.
    Sigmoid: the mean over voxels and classes of ``-alpha t (1 - p)^gamma log p``
    ``- (1 - alpha) (1 - t) p^gamma log(1 - p)``. Probabilities as in :class:`CrossEntropyLoss`.
    Class weights are scaled to a mean of 1. Source: Lin et al. 2017,
    https://arxiv.org/abs/1708.02002.

    Args:
        gamma: At least 0; 0 gives cross-entropy.
        alpha: A number in [0, 1]: the weight of t = 1 (sigmoid) or of the classes from 1 on
            (softmax), with 1 - alpha for the rest. Or C numbers: the weights of t = 1 of each
            class, with 1 for t = 0.
        **keywords: The common keywords of voxel losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    over_sums = True

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        alpha: float | Weights | None = None,
        **keywords: Unpack[VoxelKeywords],
    ) -> None:
        Voxel(**keywords)
        check_focal(gamma, alpha)
        super().__init__(focal_loss, gamma=gamma, alpha=alpha, **keywords)
