"""Structural similarity loss: cross-entropy where the structure around a voxel is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus
from typing_extensions import Unpack

from segloss_fast._check import check_number, widen
from segloss_fast.losses._declare import loss_function
from segloss_fast.losses._keywords import Voxel, VoxelKeywords
from segloss_fast.losses._maps import activated, values_where_counted, widened
from segloss_fast.losses._module import Loss
from segloss_fast.losses._reduce import Part, finish, reduce_voxel
from segloss_fast.losses.boundary import check_tensors, masks_of_target
from segloss_fast.losses.distribution import cross_entropy_part, is_categorical, is_dense
from segloss_fast.ops._voxels.maps import LOG_MIN
from segloss_fast.ops.region_sums import RegionSums, choose, region_sums
from segloss_fast.ops.structural_error import MAX_WINDOW, structural_error

HARD = ("hard_nll", "hard")  # sums of e CE, and the number of voxels, where e is large


@loss_function
def structural_similarity_loss(
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None = None,
    *,
    window_size: int = 3,
    sigma: float = 1.5,
    beta: float = 0.1,
    c: float = 0.01,
    lambda_ce: float = 0.5,
    **keywords: Unpack[VoxelKeywords],
) -> Tensor:
    """Functional form of :class:`StructuralSimilarityLoss`."""
    checked = Voxel(**keywords).whole()
    _check(window_size, sigma, beta, c, lambda_ce)
    labels = check_tensors(input, target, voxel_weight, None, checked)
    categorical = is_categorical(checked.activation, input)
    cross_entropy = cross_entropy_part(
        checked, categorical, 0.0, None, lambda_ce, dense=is_dense(input, target)
    )
    plain = _sums(input, labels, voxel_weight, cross_entropy.terms, checked)
    rule = _Rule(window_size, sigma, beta, c)
    rows = _hard_rows(input, labels, voxel_weight, rule, checked)
    both = RegionSums((*cross_entropy.terms, *HARD), torch.cat([plain, rows]))
    parts = [cross_entropy, Part(HARD, lambda sums: _mean(sums, checked), 1 - lambda_ce)]
    return finish(parts, both, input, checked, has_background_row=checked.include_background)


class StructuralSimilarityLoss(Loss):
    """Correlation maximised structural similarity, ``lambda_ce CE + (1 - lambda_ce) structural``.

    >>> loss = segloss_fast.StructuralSimilarityLoss()
    >>> loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]]))
    tensor(0.3842)

    The structural part is the sum of ``e CE`` over hard voxels divided by their number, counted
    per class: a voxel is hard for a class where the error e of the structure around it exceeds
    ``beta`` times the largest e of the item, all classes together (of the batch with
    ``batch=True``). With mean mu and standard deviation sd over
    a Gaussian window around the voxel,

        e = |(t - mu_t + c) / (sd_t + c) - (p - mu_p + c) / (sd_p + c)|.

    CE is -t log p, with ``activation="sigmoid"`` the binary cross-entropy. The gradient goes
    through both, e and CE, as in published implementations; which voxels are hard is a constant.
    Source: Zhao et al. 2019, https://arxiv.org/abs/1910.08711.

    Windows end at the border, beyond which p and t count as 0, as in a convolution with padding.
    Ignored voxels are 0 in their neighbours' windows, and never hard. A voxel weight weighs the
    means, not the windows. With ``sync`` and ``batch=True`` the largest e is that of all ranks.
    Where e has no kernels (see :mod:`segloss_fast.ops.structural_error`) PyTorch computes it, one
    class at a time.

    Args:
        window_size: Voxels along each axis, odd, at most 65.
        sigma: Of the Gaussian, in voxels, greater than 0.
        beta: In [0, 1).
        c: Greater than 0: how large a deviation counts as structure.
        lambda_ce: Weight of the plain cross-entropy, in [0, 1].
        **keywords: The common keywords of voxel losses, see :mod:`segloss_fast.losses`.

    Raises:
        TypeError: If a keyword is unknown or of the wrong type.
        ValueError: If a keyword has a value that it cannot have.
    """

    def __init__(
        self,
        *,
        window_size: int = 3,
        sigma: float = 1.5,
        beta: float = 0.1,
        c: float = 0.01,
        lambda_ce: float = 0.5,
        **keywords: Unpack[VoxelKeywords],
    ) -> None:
        Voxel(**keywords).whole()
        _check(window_size, sigma, beta, c, lambda_ce)
        super().__init__(
            structural_similarity_loss,
            window_size=window_size,
            sigma=sigma,
            beta=beta,
            c=c,
            lambda_ce=lambda_ce,
            **keywords,
        )


def _check(window_size: int, sigma: float, beta: float, c: float, lambda_ce: float) -> None:
    if not isinstance(window_size, int) or isinstance(window_size, bool):
        raise TypeError(f"window_size must be an int, got {type(window_size).__name__}")
    if not 1 <= window_size <= MAX_WINDOW or window_size % 2 == 0:
        raise ValueError(
            f"window_size must be odd, at least 1 and at most {MAX_WINDOW}, got {window_size}"
        )
    for name, value in (("sigma", sigma), ("c", c)):
        check_number(name, value, minimum=0)
        if value == 0:
            raise ValueError(f"{name} must be greater than 0, got 0")
    check_number("beta", beta, minimum=0, maximum=1)
    if beta == 1:
        raise ValueError("beta must be less than 1, got 1")
    check_number("lambda_ce", lambda_ce, minimum=0, maximum=1)


@dataclass(frozen=True)
class _Rule:
    """Options of the structural part, as the loss has them."""

    window_size: int
    sigma: float
    beta: float
    c: float


def _sums(
    input: Tensor, labels: Tensor, weight: Tensor | None, terms: tuple[str, ...], keywords: Voxel
) -> Tensor:
    """Return rows ``[K, B, C]`` of region_sums."""
    return region_sums(
        input,
        labels,
        activation=keywords.activation,
        terms=terms,
        voxel_weight=weight,
        ignore_index=keywords.ignore_index,
        impl=keywords.impl,
    ).rows


def _hard_rows(
    input: Tensor, labels: Tensor, voxel_weight: Tensor | None, rule: _Rule, keywords: Voxel
) -> Tensor:
    """Return the rows of HARD, ``[2, B, C]``."""
    x, counted = widened(input, labels, keywords)
    p = activated(x, counted, keywords.activation)
    t = _target_map(input, labels, keywords)
    error = structural_error(
        p,
        t,
        window_size=rule.window_size,
        sigma=rule.sigma,
        constant=rule.c,
        first=0 if keywords.include_background else 1,
        impl=keywords.impl,
    )
    with torch.no_grad():
        easy = _easy(error.detach(), counted, rule.beta, keywords)
        count = easy.logical_not().to(torch.bfloat16)  # in which 0 and 1 are exact
    if voxel_weight is not None:
        voxel_weight = widen(voxel_weight)
        if counted is not None:  # so that a NaN there does not count
            voxel_weight = voxel_weight.masked_fill(~counted, 0)
        count = count.to(voxel_weight.dtype) * voxel_weight

    def weighed(values: Tensor) -> Tensor:
        return values if voxel_weight is None else values * voxel_weight

    def nll(error: Tensor) -> Tensor:
        weight = weighed(error.masked_fill(easy, 0))
        return _sums(
            input, labels, weight, ("nll",) if categorical else ("nll", "nll_neg"), keywords
        ).sum(0)

    categorical = is_categorical(keywords.activation, input)
    weights = [] if voxel_weight is None else [voxel_weight]
    if choose(keywords.impl, [input], [labels], weights) == "reference":
        hard_nll = nll(error)  # with the derivatives of both factors, of any order
    else:
        hard_nll = nll(error.detach())
        # The other factor's derivative: e times the constant cross-entropy; its value is not added.
        with torch.no_grad():
            constant = _cross_entropies(x, p, t, categorical, keywords.activation)
            constant = weighed(constant.masked_fill_(easy, 0))
        through_error = (error * constant).sum(list(range(2, error.dim()))).to(hard_nll.dtype)
        hard_nll = hard_nll + (through_error - through_error.detach())
    return torch.stack([hard_nll, _sums(input, labels, count, ("weight",), keywords)[0]])


def _target_map(input: Tensor, labels: Tensor, keywords: Voxel) -> Tensor:
    """Return the masks of class indices, or the values, 0 where ignored, ``[B, C, *S]``."""
    if labels.dim() < input.dim():
        return masks_of_target(input, labels, keywords)
    return values_where_counted(input, labels, keywords)


def _easy(error: Tensor, counted: Tensor | None, beta: float, keywords: Voxel) -> Tensor:
    """Return which voxels are not hard, or do not count, ``[B, C, *S]``."""
    if counted is not None:
        error = error.masked_fill(~counted, 0)
    if keywords.batch:
        # Of an empty share, too, there is a largest one: errors are at least 0.
        largest = error.amax().view(1) if error.numel() else error.new_zeros(1)
        ranks = keywords.ranks(error)
        largest = largest if ranks is None else ranks.largest(largest, "largest")
    elif error.numel():
        largest = error.flatten(1).amax(1)
    else:
        largest = error.new_zeros(error.shape[0])
    # Negated, so that a NaN makes all voxels hard, and the loss NaN.
    easy = error <= beta * largest.view(-1, *[1] * (error.dim() - 1))
    return easy if counted is None else easy.logical_or_(~counted)


def _cross_entropies(x: Tensor, p: Tensor, t: Tensor, categorical: bool, activation: str) -> Tensor:
    """Return -t log p, or the binary cross-entropy, of every voxel and class, one class at a time.

    Args:
        x: Input, without NaN where ignored, ``[B, C, *S]``.
        p: Its probabilities.
        t: Masks or values, ``[B, C, *S]``.
        categorical: Whether classes compete.
        activation: Of the loss.
    """
    total = None
    if activation == "softmax":  # the log of the sum of e^x, by way of the largest
        total = x.amax(1) - p.amax(1).log()
    out = torch.empty_like(x)
    for c in range(x.shape[1]):
        own, inside = x[:, c], t[:, c]
        if total is not None:
            nll = total - own
        else:
            nll = softplus(-own) if activation == "sigmoid" else _minus_log(own)
        other = None
        if not categorical:
            other = softplus(own) if activation == "sigmoid" else _minus_log(1 - own)
        out[:, c] = _blend(inside, nll, other)
    return out


def _minus_log(p: Tensor) -> Tensor:
    return p.log().clamp_min(LOG_MIN).neg_()


def _blend(t: Tensor, nll: Tensor, other: Tensor | None) -> Tensor:
    """Return t nll + (1 - t) other; a product whose factor is 0 is 0, whatever the logarithm."""
    if t.dtype == torch.bool:
        return torch.where(t, nll, 0 if other is None else other)
    t = t.to(nll.dtype)
    inside = torch.where(t == 0, 0, t * nll)
    return inside if other is None else inside + torch.where(t == 1, 0, (1 - t) * other)


def _mean(sums: RegionSums, keywords: Voxel) -> Tensor:
    parts, count = (sums.rows[sums.terms.index(name)] for name in HARD)
    return reduce_voxel(parts, count, keywords)
