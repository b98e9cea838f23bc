"""What MONAI's losses have in common: their head of arguments, and what they do with it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from segloss_fast.compat._volumes import Volumes, plain, result_dtype
from segloss_fast.compat.monai._script import Scriptable

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
        input, activation = self._activated(input)
        classes = input.shape[1]
        first = 0 if self.include_background else 1
        if classes == 1 and self.to_onehot_y:
            _ignored("to_onehot_y=True")
        if classes == 1 and first:
            _ignored("include_background=False")
            first = 0
        if self.to_onehot_y and classes > 1:
            labels = class_indices(input, target)
            dtype = torch.promote_types(input.dtype, torch.float32)
            return Volumes(input, activation, labels, first, None, ignore_index, dtype)
        check_shapes(input, target)
        dtype = result_dtype(input, target)
        if ignore_index is not None and classes > 1:
            return _masked(Volumes(input, activation, target, first, dtype=dtype), ignore_index)
        return Volumes(input, activation, target, first, None, ignore_index, dtype)

    def _activated(self, input: Tensor) -> tuple[Tensor, str]:
        """Return the input, and what region_sums is to activate it with."""
        if self.other_act is not None:
            return plain(self.other_act(input)), "probabilities"
        if self.sigmoid:
            return input, "sigmoid"
        if self.softmax and input.shape[1] == 1:
            _ignored("softmax=True")
            return input, "probabilities"
        return input, "softmax" if self.softmax else "probabilities"


def _ignored(argument: str) -> None:
    warnings.warn(f"single channel prediction, `{argument}` ignored.", stacklevel=5)


def class_indices(input: Tensor, target: Tensor) -> Tensor:
    """Return targets ``[B, 1, *S]`` without their channel, or raise AssertionError."""
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
    return target.squeeze(1)


def check_shapes(input: Tensor, target: Tensor) -> None:
    """Raise AssertionError unless both are ``[B, C, *S]``."""
    if target.shape != input.shape:
        raise AssertionError(
            f"ground truth has different shape ({list(target.shape)}) from input "
            f"({list(input.shape)})"
        )


def _masked(volumes: Volumes, ignore_index: int) -> Volumes:
    """Return one-hot volumes without what MONAI masks.

    That is where the class ``ignore_index`` is, or, if there is no such class, where none is.
    """
    t = volumes.target
    if not 0 <= ignore_index < t.shape[1]:
        weight = (t.sum(1, keepdim=True) > 0).to(volumes.input.dtype)
    else:
        weight = 1.0 - t[:, ignore_index : ignore_index + 1].to(volumes.dtype)
        if (
            t.is_floating_point()
        ):  # perhaps soft: MONAI multiplies both, so products have its square
            p = activate(volumes.input, volumes.activation) * weight
            return Volumes(p, "probabilities", t * weight, volumes.first, dtype=volumes.dtype)
    return Volumes(volumes.input, volumes.activation, t, volumes.first, weight, dtype=volumes.dtype)


def activate(input: Tensor, activation: str) -> Tensor:
    """Return the activated input."""
    if activation == "softmax":
        return torch.softmax(input, 1)
    return torch.sigmoid(input) if activation == "sigmoid" else input


def reduce(rows: Tensor, reduction: str, rank: int = 0) -> Tensor:
    """Return the mean or sum of rows ``[B, C]`` or ``[C]``, or them with ``rank`` sides of 1."""
    if reduction == "mean":
        return rows.mean()
    if reduction == "sum":
        return rows.sum()
    return rows.view(*rows.shape, *[1] * rank)
