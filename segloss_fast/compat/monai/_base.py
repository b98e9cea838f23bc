"""What MONAI's losses have in common: their head of arguments, and what they do with it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from segloss_fast.compat._volumes import Volumes, comparable, plain, result_dtype
from segloss_fast.compat.monai._script import Scriptable
from segloss_fast.ops.region_sums import RegionSums

REDUCTIONS = ("none", "mean", "sum")


def check_reduction(reduction: Any) -> str:  # noqa: ANN401
    """Return MONAI's reduction, a string or a member of its enumeration; or raise ValueError."""
    value = getattr(reduction, "value", reduction)
    if value not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {list(REDUCTIONS)}, got {reduction!r}")
    return str(value)


def check_activation(sigmoid: bool, softmax: bool, other_act: Callable[..., Any] | None) -> None:
    """Raise MONAI's errors of the three arguments that say the activation."""
    if other_act is not None and not callable(other_act):
        raise TypeError(f"other_act must be None or callable, got {type(other_act).__name__}")
    if int(sigmoid) + int(softmax) + int(other_act is not None) > 1:
        raise ValueError(
            "at most one of sigmoid=True, softmax=True and other_act may be given, got "
            f"sigmoid={sigmoid}, softmax={softmax}, other_act={other_act!r}"
        )


class MonaiLoss(Scriptable, _Loss):
    """A loss with MONAI's head of arguments as attributes.

    Attributes:
        include_background: Whether the first class has a share.
        to_onehot_y: Whether targets are class indices ``[B, 1, *S]``.
        sigmoid: Whether the input gets a sigmoid.
        softmax: Whether the input gets a softmax.
        other_act: What else the input gets.
    """

    include_background: bool
    to_onehot_y: bool
    sigmoid: bool
    softmax: bool
    other_act: Callable[[Tensor], Tensor] | None

    def _set_head(
        self,
        include_background: bool,
        to_onehot_y: bool,
        sigmoid: bool,
        softmax: bool,
        other_act: Callable[[Tensor], Tensor] | None,
    ) -> None:
        check_activation(sigmoid, softmax, other_act)
        self.include_background = include_background
        self.to_onehot_y = to_onehot_y
        self.sigmoid = sigmoid
        self.softmax = softmax
        self.other_act = other_act

    def _volumes(self, input: Tensor, target: Tensor, ignore_index: int | None = None) -> Volumes:
        """Return what the loss compares; give MONAI's warnings and raise its errors."""
        input, target = plain(input), plain(target)
        classes = input.shape[1]
        input, activation = activation_of(input, self.sigmoid, self.softmax, self.other_act)
        if classes == 1 and self.to_onehot_y:
            ignored("to_onehot_y=True")
        if classes == 1 and not self.include_background:
            ignored("include_background=False")
        first = 0 if self.include_background or classes == 1 else 1
        if self.to_onehot_y and classes > 1:
            labels = class_indices(input, target)
            ignore_index = comparable(ignore_index, labels)
            dtype = torch.promote_types(input.dtype, torch.float32)
            return Volumes(input, activation, labels, first, None, ignore_index, dtype)
        check_shapes(input, target)
        dtype = result_dtype(input, target)
        volumes = Volumes(input, activation, target, first, dtype=dtype)
        return volumes if ignore_index is None else _ignoring(volumes, ignore_index)


def activation_of(
    input: Tensor, sigmoid: bool, softmax: bool, other_act: Callable[[Tensor], Tensor] | None
) -> tuple[Tensor, str]:
    """Return the input, and what region_sums is to activate it with; warn as MONAI does."""
    if not input.is_floating_point():
        input = input.to(torch.get_default_dtype())
    if softmax and input.shape[1] == 1:
        ignored("softmax=True")
        softmax = False
    if other_act is None and not (sigmoid and softmax):
        return input, "sigmoid" if sigmoid else "softmax" if softmax else "probabilities"
    # All of them one after the other, if attributes were set so.
    input = torch.sigmoid(input) if sigmoid else input
    input = torch.softmax(input, 1) if softmax else input
    return input if other_act is None else plain(other_act(input)), "probabilities"


def ignored(argument: str) -> None:
    """Warn as MONAI does that an argument has no effect on one class."""
    warnings.warn(f"single channel prediction, `{argument}` ignored.", stacklevel=5)


def class_indices(input: Tensor, target: Tensor) -> Tensor:
    """Return targets ``[B, 1, *S]`` without their channel, or raise AssertionError."""
    if target.dim() == 1:
        target = target.unsqueeze(1)
    if target.dim() < 2 or target.shape[1] != 1:
        raise AssertionError(
            "labels should have a channel with length equal to one: target must be [B, 1, *S] "
            f"with to_onehot_y=True, got shape {list(target.shape)}"
        )
    expected = (input.shape[0], 1, *input.shape[2:])
    if target.shape != expected:
        raise AssertionError(
            f"ground truth has different shape ({list(target.shape)}) from input: with "
            f"to_onehot_y=True an input {list(input.shape)} needs {list(expected)}"
        )
    _check_device(input, target)
    return target.detach().squeeze(1)


def check_shapes(input: Tensor, target: Tensor) -> None:
    """Raise AssertionError unless both are ``[B, C, *S]``."""
    if target.shape != input.shape:
        raise AssertionError(
            f"ground truth has different shape ({list(target.shape)}) from input "
            f"({list(input.shape)})"
        )
    _check_device(input, target)


def check_channels(input: Tensor, target: Tensor) -> None:
    """Raise the ValueErrors of MONAI's compound losses."""
    if input.dim() != target.dim():
        raise ValueError(
            "the number of dimensions for input and target should be the same, got shapes "
            f"{list(input.shape)} and {list(target.shape)}: class indices need a channel, [B, 1, "
            "*S]"
        )
    if target.shape[1] not in (1, input.shape[1]):
        raise ValueError(
            "number of channels for target is neither 1, as class indices have it, nor the same as "
            f"input, got shapes {list(target.shape)} and {list(input.shape)}"
        )


def _check_device(input: Tensor, target: Tensor) -> None:
    if input.device != target.device:
        raise RuntimeError(
            f"input and target must be on one device, got {input.device} and {target.device}"
        )


def _ignoring(volumes: Volumes, ignore_index: int) -> Volumes:
    """Return volumes of values without what MONAI ignores.

    Of several classes that is where the class ``ignore_index`` is, or, if there is no such class,
    where none is.
    """
    t = volumes.target
    classes = t.shape[1]
    if 0 <= ignore_index < classes and classes > 1:
        share = t[:, ignore_index : ignore_index + 1]
        weight = 1 - share.to(torch.promote_types(share.dtype, torch.float32))
        dtype = result_dtype(volumes.input, t, weight)
        # MONAI multiplies both, so products have the square of weights between 0 and 1.
        soft = t.is_floating_point()
        return dataclasses.replace(volumes, weight=weight, dtype=dtype, of_both=soft)
    dtype = torch.promote_types(volumes.dtype, torch.float32)
    if classes == 1:
        ignore = comparable(ignore_index, t)
        return dataclasses.replace(volumes, ignore_index=ignore, dtype=dtype)
    weight = (t.sum(1, keepdim=True) > 0).float()
    return dataclasses.replace(volumes, weight=weight, dtype=dtype)


def activate(input: Tensor, activation: str) -> Tensor:
    """Return the activated input."""
    if activation == "softmax":
        return torch.softmax(input, 1)
    return torch.sigmoid(input) if activation == "sigmoid" else input


def overlap_terms(*, squared: bool = False, soft: bool = False) -> tuple[str, ...]:
    """Return the sums that :func:`overlap` needs."""
    if squared:
        return "tp", "pred_sq", "target_sq"
    return "tp_soft" if soft else "tp", "pred", "target"


def overlap(
    sums: RegionSums, volumes: Volumes, batch: bool, *, squared: bool = False, soft: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what both volumes have in common, and what each holds, ``[B, C']`` or ``[C']``.

    Args:
        sums: Per item and class that has a share.
        volumes: What they are of.
        batch: Whether the items are pooled.
        squared: Whether they hold the sums of their squares.
        soft: Whether they have in common the sum of the smaller values: half of what the sizes of
            both exceed the size of the difference, where a size is the sum of absolute values.
    """
    rows = RegionSums(sums.terms, pooled(sums.rows, volumes, batch), sums.constant)
    if squared:
        return rows.tp, rows.pred_sq, rows.target_sq
    if not soft:
        return rows.tp, rows.pred, rows.target
    if not volumes.may_be_negative():
        return rows.tp_soft, rows.pred, rows.target
    # What is below 0 has nothing in common with the target. In sums of their own, because in a
    # difference of sizes the gradient of a class that is absent would be lost.
    tp = volumes.mapped(torch.relu).sums(("tp_soft",)).tp_soft
    size = volumes.mapped(torch.abs).sums(("pred",)).pred
    return pooled(tp, volumes, batch), pooled(size, volumes, batch), rows.target


def pooled(rows: Tensor, volumes: Volumes, batch: bool) -> Tensor:
    """Return rows ``[..., B, C']`` as ``[..., C']`` if the items are pooled.

    Of an input without voxels, ``[B, C]``, they become one number, else: MONAI names no dimension
    then, so torch sums over all.
    """
    if batch:
        return rows.sum(-2)
    return rows.sum((-2, -1)) if volumes.input.dim() == 2 else rows


def one_minus(factor: float, numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return ``1 - factor numerator / denominator``, in one operation of small tensors."""
    return torch.addcdiv(numerator.new_ones(()), numerator, denominator, value=-factor)


def reduce(rows: Tensor, reduction: str, rank: int = 0) -> Tensor:
    """Return the mean or sum of rows ``[B, C]`` or ``[C]``, or them with ``rank`` sides of 1."""
    if reduction == "mean":
        return rows.mean()
    if reduction == "sum":
        return rows.sum()
    if reduction != "none":
        check_reduction(reduction)
    return rows.view(*rows.shape, *[1] * rank) if rank else rows
