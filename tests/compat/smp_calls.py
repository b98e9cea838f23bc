"""Random options, predictions and targets of segmentation-models-pytorch's losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, float16, float32, float64, int32, int64, uint8
from torch import bool as boolean

from tests.compat.grid import Draw

MODES = ("binary", "multiclass", "multilabel")


def problem(
    draw: Draw,
    options: dict[str, Any],
    *,
    ignoring: Sequence[str] = MODES,
    soft: bool = True,
    dtypes: Sequence[torch.dtype] = (float32, float32, float64, float16),
    ranks: Sequence[int] = (1, 2, 3, 4),
    fewest: int = 1,
) -> tuple[Tensor, Tensor]:
    """Return logits and a target that fit each other, and set the mode and ignore_index.

    Args:
        draw: The generator.
        options: Gets the mode, and ignore_index if some target values are to be ignored.
        ignoring: The modes in which some may be.
        soft: Whether targets of sigmoids may be other numbers than 0 and 1.
        dtypes: Of the logits.
        ranks: How many spatial dimensions there may be.
        fewest: Number of classes of the multiclass mode, at least.
    """
    mode = options["mode"] = draw.of(*MODES)
    batch, size = draw.of(1, 2, 3), draw.size(draw.of(*ranks))
    classes = 1 if mode == "binary" else draw.of(1, 2, 3, 5)
    classes = max(classes, fewest) if mode == "multiclass" else classes
    x = draw.normal(batch, classes, *size, spread=draw.of(0.5, 3.0))
    x = draw.strided(x).to(draw.of(*dtypes))
    ignored = draw.of(255, 0, 1) if mode in ignoring and draw.of(True, False) else None
    if ignored is not None:
        options["ignore_index"] = ignored
    if mode == "multiclass":
        target = draw.labels(classes, batch, *size)
        target = _ignore(draw, target, ignored)
        if ignored is not None:
            target = target.to(draw.of(uint8, int32, int64, float32))
        return x, target.unsqueeze(1) if draw.of(True, False) else target
    target = (draw.soft(*x.shape) > draw.of(0.1, 0.7, 0.9999)).to(int64)
    kind = draw.of(boolean, uint8, int64, float32, "soft" if soft else float32)
    if kind == "soft":
        target = draw.of(draw.soft(*x.shape), 0.1 + 0.8 * target)
    elif kind == boolean:
        target = target.to(kind)
    target = target if kind == boolean else _ignore(draw, target, ignored)
    if isinstance(kind, torch.dtype):
        target = target.to(kind)
    if mode == "binary" and draw.of(True, False):
        target = target[:, 0]
    return x, draw.strided(target)


def _ignore(draw: Draw, target: Tensor, ignored: int | None) -> Tensor:
    if ignored is None:
        return target
    return target.masked_fill(draw.soft(*target.shape) < draw.of(0.2, 0.9), ignored)


def class_weights(draw: Draw, options: dict[str, Any], classes: int) -> None:
    """Give class weights, at random."""
    if options["mode"] != "binary" and draw.of(True, False):
        options["class_weights"] = [0.5 + c for c in range(classes)]


def region(draw: Draw, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return a prediction and a target of Dice, Jaccard and Tversky, and set their options."""
    x, target = problem(draw, options)
    classes, mode = x.shape[1], options["mode"]
    class_weights(draw, options, classes)
    if mode != "binary" and draw.of(True, False):
        some = [0, classes - 1, [-1], (0,), list(range(classes)), [0, 0, classes - 1]]
        chosen = draw.of(*some[2:])
        options["classes"] = draw.of(chosen, torch.tensor(chosen))
    kind = draw.of("logits", "logits", "logits", "probabilities", "any")
    if kind != "logits":
        options["from_logits"] = False
    if kind == "probabilities":
        x = torch.softmax(x, 1) if mode == "multiclass" else torch.sigmoid(x)
    return x.double() if kind == "any" else x, target
