"""What segmentation-models-pytorch's losses have in common: modes, layouts, sums over the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segloss_fast.compat._volumes import Volumes, can_look, comparable, flat, plain
from segloss_fast.compat.smp.constants import BINARY_MODE, MULTICLASS_MODE, MULTILABEL_MODE
from segloss_fast.ops.region_sums import region_sums

MODES = (BINARY_MODE, MULTICLASS_MODE, MULTILABEL_MODE)


def check_mode(mode: Any) -> None:  # noqa: ANN401
    """Raise AssertionError unless this is a mode."""
    if mode not in MODES:
        raise AssertionError(f"mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}")


def check_class_weights(mode: str, class_weights: object) -> None:
    """Raise ValueError for weights of the only class."""
    if class_weights is not None and mode == BINARY_MODE:
        raise ValueError("class_weights are not supported with mode=binary")


def tensors(y_pred: Tensor, y_true: Tensor) -> tuple[Tensor, Tensor]:
    """Return both without subclasses; raise RuntimeErrors of dtype and device."""
    y_pred, y_true = plain(y_pred), plain(y_true)
    if not y_pred.is_floating_point():
        raise NotImplementedError(f"y_pred must have a floating-point dtype, got {y_pred.dtype}")
    if y_pred.device != y_true.device:
        raise RuntimeError(
            f"y_true must be on the device of y_pred, {y_pred.device}, got {y_true.device}"
        )
    return y_pred, y_true


def in_line(y_pred: Tensor, y_true: Tensor, items: int = 1) -> tuple[Tensor, Tensor]:
    """Return two tensors of as many numbers as ``[items, 1, V]``, in the same order."""
    if y_pred.shape == y_true.shape and y_pred.dim() > 2 and not y_pred.is_contiguous():
        y_pred, y_true = y_pred.movedim(1, -1), y_true.movedim(1, -1)  # as channels_last has them
    return y_pred.reshape(items, 1, -1), y_true.reshape(items, 1, -1)


def class_sums(y_pred: Tensor, y_true: Tensor, *how: Any, **options: Any) -> Tensor:  # noqa: ANN401
    """Return what item_sums does, summed over the items, ``[K, C]``."""
    rows = item_sums(y_pred, y_true, *how, **options)
    return rows.squeeze(1) if rows.shape[1] == 1 else rows.sum(1)


def item_sums(
    y_pred: Tensor,
    y_true: Tensor,
    mode: str,
    activation: str,
    terms: Sequence[str],
    *,
    gamma: float | None = None,
    ignore_index: int | None = None,
    unit: bool = False,
) -> Tensor:
    """Return sums over the voxels, float64 ``[K, I, C]``: C = 1 in the binary mode, I items.

    Args:
        y_pred: ``[B, C, *S]``; of any shape in the binary mode.
        y_true: Of as many numbers, or per item as many labels as there are voxels.
        mode: One of MODES.
        activation: As for region_sums.
        terms: As for region_sums.
        gamma: As for region_sums.
        ignore_index: In the multi-label mode each class has voxels of its own that do not count.
        unit: Whether values must lie in [0, 1], and integers be 0 and 1. Else they may be any; but
            with ignore_index on a GPU, where nobody looks at them, others make the sums NaN.
    """
    ignore_index = comparable(ignore_index, y_true)
    shape: tuple[int, ...] = (*y_pred.shape[:2],)
    if mode == BINARY_MODE:
        x, t = _binary(y_pred, y_true)
        shape = (x.shape[0], 1)
    elif mode == MULTICLASS_MODE:
        x, t = flat(y_pred, 2), flat(y_true.reshape(shape[0], *y_pred.shape[2:]), 1)
        if shape[1] == 1:
            x, t, activation = _only_class(x, t, activation, ignore_index)
            ignore_index = None if ignore_index is None else _IGNORED
    else:
        x, t = flat(y_pred, 2), flat(y_true.reshape(y_pred.shape), 2)
        if unit or ignore_index is not None:  # every class is a problem of its own
            x, t = in_line(x.flatten(0, 1), t.flatten(0, 1), shape[0] * shape[1])
    one_by_one = x.shape[1] == 1 and mode != MULTICLASS_MODE
    # Volumes take any values, and more time where they need not.
    if one_by_one and not unit and ignore_index is None and not can_look(t):
        return Volumes(x, activation, t).sums(terms).rows.view(-1, *shape)
    try:
        rows = region_sums(
            x, t, activation=activation, terms=terms, gamma=gamma, ignore_index=ignore_index
        ).rows
    except ValueError:
        if unit or not one_by_one or not can_look(t):
            raise
        rows = Volumes(x, activation, t, ignore_index=ignore_index).sums(terms).rows
    return rows if rows.shape[1:] == shape else rows.view(-1, *shape)


def _binary(y_pred: Tensor, y_true: Tensor) -> tuple[Tensor, Tensor]:
    """Return both as ``[I, 1, *S]``, as they are if they are: a view has a gradient of its own."""
    whole = y_pred.is_contiguous() and y_true.is_contiguous()
    if not whole or y_pred.dim() not in (3, 4, 5) or y_pred.shape[1] != 1:
        return in_line(y_pred, y_true)
    if y_true.shape != y_pred.shape:
        y_true = y_true.reshape(y_pred.shape)
    return y_pred, y_true


def weighed(rows: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the sum of rows ``[K, I, C]``, the first each times a number, the rest left out.

    Of few operations, which is what small images take time for.
    """
    if rows.device.type != "cpu":  # whose graphs record no copy of numbers from the host
        parts = [row.sum() * number for row, number in zip(rows, weights, strict=False)]
        return torch.stack(parts).sum()
    numbers = [*weights, *[0.0] * (rows.shape[0] - len(weights))]
    return (rows * torch.tensor([[[n]] for n in numbers], dtype=rows.dtype)).sum()


_IGNORED = 3


def _only_class(
    x: Tensor, labels: Tensor, activation: str, ignore_index: int | None
) -> tuple[Tensor, Tensor, str]:
    """Return what region_sums takes for one class, which is its label 1 and here is the label 0."""
    others = 0 if activation == "sigmoid" else 2  # 2 is no label
    t = torch.where(labels == 0, 1, others)
    if ignore_index is not None:
        t = torch.where(labels == ignore_index, _IGNORED, t)
    if activation != "softmax":
        return x, t, activation
    return torch.softmax(x, 1), t, "probabilities"
