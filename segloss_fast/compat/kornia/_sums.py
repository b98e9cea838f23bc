"""Sums over the pixels of images and volumes, of logits against class indices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segloss_fast.compat._volumes import Volumes
from segloss_fast.ops.region_sums import RegionSums


def class_sums(
    pred: Tensor,
    target: Tensor,
    terms: Sequence[str],
    ignore_index: int | None,
    gamma: float | None = None,
) -> RegionSums:
    """Return sums per item and class, float64 ``[B, C]``, of the softmax of ``[B, C, *S]``."""
    if pred.shape[1] == 1:
        return _one_class(pred, target, ignore_index).sums(terms, gamma=gamma)
    return Volumes(pred, "softmax", target, ignore_index=ignore_index).sums(terms, gamma=gamma)


def _one_class(pred: Tensor, target: Tensor, ignore_index: int | None) -> Volumes:
    """Return what is compared with one class, whose only label is 0 and whose softmax is 1."""
    labels = target[:, None]
    counted = torch.ones_like(labels, dtype=torch.bool)
    if ignore_index is not None:
        counted = labels != ignore_index
    if target.device.type == "cpu" and not torch.compiler.is_compiling():
        wrong = labels[counted & (labels != 0)]
        if wrong.numel():
            raise ValueError(
                "target must hold class indices in [0, 1) or ignore_index, got "
                f"{wrong.numel()} other values, the first of which is {int(wrong[0])}"
            )
    p = pred.softmax(1)
    weight = counted.to(torch.float64 if p.dtype == torch.float64 else torch.float32)
    return Volumes(p, "probabilities", torch.ones_like(weight), weight=weight)
