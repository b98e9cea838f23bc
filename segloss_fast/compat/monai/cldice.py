"""MONAI's clDice losses, and the functions that form their skeletons."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from segloss_fast._check import widen
from segloss_fast.compat._volumes import Volumes, plain
from segloss_fast.compat.monai._base import (
    MonaiLoss,
    activate,
    activation_of,
    check_channels,
    check_reduction,
    class_indices,
    reduce,
)
from segloss_fast.compat.monai._fields import is_dense, masks_of
from segloss_fast.compat.monai._script import Scriptable
from segloss_fast.compat.monai.dice import DiceLoss
from segloss_fast.ops.soft_skeleton import soft_skeleton

POOLS = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)


def soft_erode(img: Tensor) -> Tensor:
    """Return the minimum over each voxel of ``[B, C, *S]`` and its neighbours along the axes.

    Raises:
        ValueError: If S has not one to three dimensions.
    """
    axes, pool = _pool(img)
    eroded = None
    for axis in range(axes):
        size = [3 if other == axis else 1 for other in range(axes)]
        along = -pool(-img, size, 1, [side // 2 for side in size])
        eroded = along if eroded is None else torch.min(eroded, along)
    assert eroded is not None
    return eroded


def soft_dilate(img: Tensor) -> Tensor:
    """Return the maximum over the cube of three voxels a side around each of ``[B, C, *S]``.

    Raises:
        ValueError: If S has not one to three dimensions.
    """
    axes, pool = _pool(img)
    return pool(img, [3] * axes, 1, [1] * axes)


def soft_open(img: Tensor) -> Tensor:
    """Return the dilation of the erosion."""
    return soft_dilate(soft_erode(img))


def soft_skel(img: Tensor, iter_: int) -> Tensor:
    """Return the soft skeleton of each item and class of ``[B, C, *S]``.

    >>> from segloss_fast.compat.monai import cldice
    >>> cldice.soft_skel(torch.ones(1, 1, 3, 5), 1)[0, 0]
    tensor([[0., 0., 0., 0., 0.],
            [0., 0., 0., 0., 0.],
            [0., 0., 0., 0., 0.]])

    Args:
        img: Floating point, or integers, of which torch does the arithmetic as in MONAI: without
            a sign it wraps around.
        iter_: Number of erosions after the first.

    Raises:
        ValueError: If S has not one to three dimensions.
    """
    img = plain(img)
    _pool(img)
    if img.is_floating_point():
        return soft_skeleton(widen(img), iter_).to(img.dtype)
    skeleton = functional.relu(img - soft_open(img))
    for _ in range(iter_):
        img = soft_erode(img)
        rest = functional.relu(img - soft_open(img))
        skeleton = skeleton + functional.relu(rest - skeleton * rest)
    return skeleton


def _pool(img: Tensor) -> tuple[int, Callable[..., Tensor]]:
    """Return how many spatial axes there are, and the maximum over windows of them."""
    axes = img.dim() - 2
    if not 1 <= axes <= 3:
        raise ValueError(
            "a skeleton needs [B, C, *S] with one to three spatial dimensions, "
            f"got shape {list(img.shape)}"
        )
    return axes, POOLS[axes - 1]


class SoftclDiceLoss(MonaiLoss):
    """MONAI's SoftclDiceLoss, with its arguments.

    >>> loss = segloss_fast.compat.monai.SoftclDiceLoss(iter_=1, sigmoid=True)
    >>> loss(torch.zeros(1, 1, 4, 4), torch.eye(4)[None, None])
    tensor(0.2500)

    ``1 - 2 P S / (P + S + smooth)`` per item, with the soft skeletons s_p and s_t, P = ``(sum s_p t
    + smooth_nr) / (sum s_p + smooth_dr)`` and S = ``(sum s_t p + smooth_nr) / (sum s_t +
    smooth_dr)``, the sums over voxels and classes.

    Args:
        iter_: Number of erosions after the first: half the width of the thickest structure.
        smooth_nr: Added to numerators.
        smooth_dr: Added to denominators.
        smooth: Added to the denominator of the harmonic mean.
        include_background: Whether the first class has a share.
        to_onehot_y: Whether targets are class indices ``[B, 1, *S]``.
        sigmoid: Whether the input gets a sigmoid.
        softmax: Whether the input gets a softmax.
        other_act: What else the input gets.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, over items.

    Raises:
        TypeError: If ``other_act`` is not callable, or ``iter_`` is no integer.
        ValueError: If more than one activation is given, the reduction is unknown, ``iter_`` is
            negative, or ``smooth`` is not positive.
    """

    def __init__(
        self,
        iter_: int = 3,
        smooth_nr: float = 1.0,
        smooth_dr: float = 1.0,
        smooth: float = 1e-4,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        reduction: Any = "mean",  # noqa: ANN401
    ) -> None:
        super().__init__(reduction=check_reduction(reduction))
        self._set_head(include_background, to_onehot_y, sigmoid, softmax, other_act)
        if not isinstance(iter_, int):
            raise TypeError(f"iter_ must be an integer, got {type(iter_).__name__}")
        if iter_ < 0:
            raise ValueError(f"iter_ must be at least 0, got {iter_}")
        if smooth <= 0:
            raise ValueError(f"smooth must be greater than 0, got {smooth}")
        self.iter = iter_
        self.smooth_nr = float(smooth_nr)
        self.smooth_dr = float(smooth_dr)
        self.smooth = float(smooth)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``[B, C, *S]`` against the same or class indices ``[B, 1, *S]``.

        Raises:
            AssertionError: If the target's shape does not fit the input's.
            ValueError: If S has not one to three dimensions.
        """
        volumes = self._volumes(input, target)
        return self._of(volumes).to(self._dtype(volumes))

    def _dtype(self, volumes: Volumes) -> torch.dtype:
        if volumes.target.is_floating_point():
            return volumes.dtype
        return torch.promote_types(volumes.dtype, torch.float32)

    def _of(self, volumes: Volumes) -> Tensor:
        """Return the loss, float64."""
        _pool(volumes.input)
        p = activate(widen(volumes.input), volumes.activation)
        skeleton = soft_skeleton(p, self.iter, first=volumes.first)
        # Not pred itself: where the target fills the item the gradient of precision would vanish.
        found = replace(volumes, input=skeleton, activation="probabilities").sums(("tp", "fp"))
        tp, fp = found.tp.sum(1), found.fp.sum(1)
        true = self._true_skeleton(volumes, p.dtype)
        found = replace(volumes, weight=true).sums(("pred", "weight"))
        precision = (tp + self.smooth_nr) / (tp + fp + self.smooth_dr)
        sensitivity = (found.pred.sum(1) + self.smooth_nr) / (found.weight.sum(1) + self.smooth_dr)
        loss = 1 - 2 * precision * sensitivity / (precision + sensitivity + self.smooth)
        return reduce(loss, self.reduction)

    def _true_skeleton(self, volumes: Volumes, dtype: torch.dtype) -> Tensor:
        """Return the target's skeletons as weights, ``[B, C, *S]``."""
        target, first = volumes.target, volumes.first
        if not is_dense(volumes) or target.dtype == torch.bool:
            masks = soft_skeleton(masks_of(volumes), self.iter, first=first)
            return masks.to(torch.bfloat16)  # in which 0 and 1 are exact
        if target.is_floating_point():
            return soft_skeleton(target.to(dtype), self.iter, first=first)
        return soft_skel(target, self.iter).to(dtype)


class SoftDiceclDiceLoss(Scriptable, torch.nn.modules.loss._Loss):
    """MONAI's SoftDiceclDiceLoss: ``(1 - alpha) DiceLoss + alpha SoftclDiceLoss``.

    >>> loss = segloss_fast.compat.monai.SoftDiceclDiceLoss(iter_=1, sigmoid=True)
    >>> loss(torch.zeros(1, 1, 4, 4), torch.eye(4)[None, None])
    tensor(0.4327)

    With the reduction "none" the sum is torch's of ``[B, C, 1, ...]`` and ``[B]``, as in MONAI:
    each item's Dice stands beside the clDice of every item.

    Args:
        iter_: As in :class:`SoftclDiceLoss`, and so are the others that are not listed.
        alpha: Weight of clDice, in [0, 1].
        smooth_nr: Of both losses.
        smooth_dr: Of both losses.

    Raises:
        TypeError: As :class:`SoftclDiceLoss`.
        ValueError: As :class:`SoftclDiceLoss`, or if ``alpha`` is out of range.
    """

    def __init__(
        self,
        iter_: int = 3,
        alpha: float = 0.5,
        smooth_nr: float = 1.0,
        smooth_dr: float = 1.0,
        smooth: float = 1e-4,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        reduction: Any = "mean",  # noqa: ANN401
    ) -> None:
        super().__init__()
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        shared: dict[str, Any] = {
            **{"include_background": include_background, "sigmoid": sigmoid, "softmax": softmax},
            **{"other_act": other_act, "reduction": reduction},
            **{"smooth_nr": smooth_nr, "smooth_dr": smooth_dr},
        }
        self.dice = DiceLoss(**shared)
        self.cldice = SoftclDiceLoss(iter_, smooth=smooth, **shared)
        self.alpha = alpha
        self.to_onehot_y = to_onehot_y

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``[B, C, *S]`` against the same or class indices ``[B, 1, *S]``.

        Raises:
            ValueError: If the target has another number of dimensions than the input, or neither
                one channel nor as many, or S has not one to three dimensions.
            AssertionError: If the target's shape does not fit the input's.
        """
        check_channels(input, target)
        if self.to_onehot_y and input.shape[1] == 1:
            warnings.warn("single channel prediction, `to_onehot_y=True` ignored.", stacklevel=2)
        volumes = self._volumes(self.dice, input, target, self.dice.ignore_index)
        dice = self.dice._of(volumes.sums(self.dice._terms(volumes)), volumes)
        skeletons = self._volumes(self.cldice, input, target)
        loss = (1.0 - self.alpha) * dice + self.alpha * self.cldice._of(skeletons)
        return loss.to(torch.promote_types(volumes.dtype, self.cldice._dtype(skeletons)))

    def _volumes(
        self, part: MonaiLoss, input: Tensor, target: Tensor, ignore_index: int | None = None
    ) -> Volumes:
        """Return what a part compares, which does not know that targets are class indices."""
        if not self.to_onehot_y or input.shape[1] == 1:
            return part._volumes(input, target, ignore_index)
        head = part.sigmoid, part.softmax, part.other_act
        input, activation = activation_of(plain(input), *head)
        labels = class_indices(input, plain(target))
        first = 0 if part.include_background else 1
        dtype = torch.promote_types(input.dtype, torch.float32)
        return Volumes(input, activation, labels, first, None, ignore_index, dtype)
