"""Definitions of the Lovász losses in float64, from the papers' formulas."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.ops import lovasz_definition as definition


def lovasz(
    activation: str,
    x: Tensor,
    target: Tensor,
    *,
    classes: Any = None,  # noqa: ANN401
    per_image: bool = False,
    include_background: bool = True,
    class_weight: list[float] | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
    ce_weight: float = 0.0,
) -> Tensor:
    """Return the loss of logits ``[B, C, *S]`` and class indices, or bool ``[B, C, *S]``."""
    c_all = range(x.shape[1])
    classes = ("present" if activation == "softmax" else "all") if classes is None else classes
    if target.dim() == x.dim():
        t, counted = target > 0.5, torch.ones_like(target[:, 0], dtype=torch.bool)
    else:
        t = torch.stack([target == c if x.shape[1] > 1 else target != 0 for c in c_all], 1)
        counted = torch.ones_like(target, dtype=torch.bool)
        if ignore_index is not None:
            counted = target != ignore_index
            t = t & counted[:, None]
    m = definition.errors(x, t, activation)
    rows = definition.loss(m, t, counted, per_image, definition.exact)
    v = torch.ones(x.shape[1]).double() if class_weight is None else torch.tensor(class_weight)
    v = v.double().expand_as(rows).clone()
    left_out = [c for c in c_all if not isinstance(classes, str) and c not in classes]
    left_out += [] if include_background else [0]
    v[:, left_out] = 0
    for i, c, _, foreground, _ in definition.images(m, t, counted, per_image):
        if classes == "present" and not foreground.any():
            v[i, c] = 0
    ce = _cross_entropy(activation, x, t, counted, class_weight, reduction, per_image)
    if reduction == "none":
        rows = rows * v + ce_weight * ce
        if not include_background and not ce_weight:
            rows = rows[:, 1:]
        return rows if per_image else rows[0]
    if reduction == "sum":
        return (rows * v).sum() + ce_weight * ce.sum()
    means = [
        (row * w).sum() / w.sum() if w.sum() else row.sum() * 0
        for row, w in zip(rows, v, strict=True)
    ]
    return torch.stack(means).mean() + ce_weight * ce.sum()


def _cross_entropy(
    activation: str,
    x: Tensor,
    t: Tensor,
    counted: Tensor,
    class_weight: list[float] | None,
    reduction: str,
    per_image: bool,
) -> Tensor:
    """Return the parts of the cross-entropy ``[I, C]``, which add up to what is asked for."""
    v = torch.ones(x.shape[1]) if class_weight is None else torch.tensor(class_weight)
    v = v.double().view(1, -1, *[1] * (x.dim() - 2))
    if activation == "softmax":
        values, norm = -x.log_softmax(1) * t * v, t * v
    else:
        values = -torch.where(t, x, -x).sigmoid().log() * v
        norm = v.expand_as(x)
    values, norm = ((a * counted[:, None]).flatten(2).sum(2) for a in (values, norm))
    if not per_image:
        values, norm = values.sum(0, keepdim=True), norm.sum(0, keepdim=True)
    if reduction == "sum":
        return values
    norm = norm.sum(1, keepdim=True) if reduction == "none" else norm.sum()
    return values / torch.where(norm == 0, 1, norm)
