"""What kornia's losses expect of their arguments, and raise if it is not so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segloss_fast.compat._volumes import plain
from segloss_fast.compat.kornia._errors import BaseError, ShapeError, TypeCheckError, error

REDUCTIONS = ("none", "mean", "sum")


def tensors(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return both without their subclasses, or raise TypeError."""
    for name, value in (("pred", pred), ("target", target)):
        if not isinstance(value, Tensor):
            message = f"{name} must be a torch.Tensor, got {type(value).__name__}"
            raise error(TypeCheckError, message)
    return plain(pred), plain(target)


def check_pair(
    pred: Tensor, target: Tensor, ranks: Sequence[int] | None, kind: type[Exception]
) -> None:
    """Raise unless pred is ``[B, C, *S]`` and target ``[B, *S]``.

    Args:
        pred: Logits.
        target: Class indices.
        ranks: Of pred; None for 2 and more.
        kind: What is raised.
    """
    if ranks is None:
        if pred.dim() < 2:
            message = f"pred must be [B, C, *] with two dimensions or more, got {list(pred.shape)}"
            raise error(ShapeError, message)
    elif pred.dim() not in ranks:
        raise _of(kind, f"pred must be [B, C, H, W] or [B, C, D, H, W], got {list(pred.shape)}")
    expected = (pred.shape[0], *pred.shape[2:])
    if target.shape != expected:
        raise _of(
            kind,
            f"pred and target must fit: a pred of shape {list(pred.shape)} needs a target of shape "
            f"{list(expected)}, got {list(target.shape)}",
        )
    check_device("target", target, pred, kind)


def check_device(name: str, tensor: Tensor, pred: Tensor, kind: type[Exception]) -> None:
    """Raise unless both lie on one device."""
    if tensor.device != pred.device:
        raise _of(kind, f"{name} must be on the device of pred, {pred.device}, got {tensor.device}")


def _of(kind: type[Exception], message: str) -> Exception:
    return error(kind, message) if issubclass(kind, BaseError) else kind(message)


def check_labels(pred: Tensor, target: Tensor) -> None:
    """Raise unless there is a class, and the target holds int64."""
    if target.dtype != torch.int64:
        raise error(BaseError, f"target must hold labels of dtype torch.int64, got {target.dtype}")
    if pred.shape[1] < 1:
        raise error(BaseError, f"pred must have at least one class, got shape {list(pred.shape)}")


def check_weight(name: str, weight: Tensor | None, pred: Tensor) -> None:
    """Raise unless weights are None, or a number for each class."""
    if weight is None:
        return
    if not isinstance(weight, Tensor):
        message = f"{name} must be a torch.Tensor or None, got {type(weight).__name__}"
        raise error(TypeCheckError, message)
    classes = pred.shape[1]
    if weight.numel() != classes or weight.dim() == 0 or weight.shape[0] != classes:
        raise error(
            BaseError,
            f"{name} must hold {classes} numbers, one per class of a pred of shape "
            f"{list(pred.shape)}, got shape {list(weight.shape)}",
        )
    check_device(name, weight, pred, BaseError)


def check_reduction(reduction: Any) -> None:  # noqa: ANN401
    """Raise NotImplementedError unless this is a reduction."""
    if reduction not in REDUCTIONS:
        raise NotImplementedError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")


def register_weight(module: nn.Module, name: str, weight: Tensor | None) -> None:
    """Give a module weights as kornia does: a parameter as such, else a buffer not in its state."""
    if isinstance(weight, nn.Parameter):
        setattr(module, name, weight)
    else:
        module.register_buffer(name, weight, persistent=False)
