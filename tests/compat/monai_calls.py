"""Random options, predictions and targets of MONAI's losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, float16, float32, float64, int16, int64, uint8
from torch import bool as boolean
from torch.nn.functional import one_hot

from tests.compat.grid import Draw

HEAD = {
    "include_background": (True, False),
    "reduction": ("mean", "sum", "none"),
    "batch": (True, False),
}
SMOOTH = {"smooth_nr": (0.0, 1e-5, 1.0), "smooth_dr": (1e-5, 1.0)}


def volumes(
    draw: Draw,
    options: dict[str, object],
    *,
    norms: bool | None = None,
    any_values: bool = False,
    with_gradient: bool = False,
    ranks: Sequence[int] = (1, 2, 3, 4),
) -> tuple[Tensor, Tensor]:
    """Return a prediction and a target that fit each other, and set the options of both.

    Args:
        draw: The generator.
        options: Gets the activation and whether targets become one-hot.
        norms: Whether MONAI takes norms of them, which torch takes of floating-point numbers only;
            by default whether the options have squared_pred or soft_label.
        any_values: Whether a prediction may be of any sign: without an activation, or with another.
        with_gradient: Whether soft targets may require a gradient.
        ranks: How many spatial dimensions there may be.
    """
    rank, batch, classes = draw.of(*ranks), draw.of(1, 2, 3), draw.of(1, 2, 3, 5)
    size = draw.size(rank)
    x = draw.strided(draw.normal(batch, classes, *size, spread=draw.of(0.5, 3.0)))
    dtype = draw.of(float32, float32, float64, float16)
    x = x.to(float64 if max(size) == 1 else dtype)  # one voxel may differ from itself by rounding
    activation = draw.of("softmax", "sigmoid", None, *(("other_act", "any") if any_values else ()))
    if activation is None:
        x = x.sigmoid()
    elif activation == "other_act":
        options[activation] = draw.of(torch.tanh, torch.sigmoid, torch.nn.Softmax(1))
        x = x.float() if x.dtype == float16 else x  # the activation would round it
        if options[activation] is torch.tanh:
            x = x.double()  # sums of both signs may be small
    elif activation == "any":
        x = x.double()
    else:
        options[activation] = True
    labels = draw.labels(max(classes, 2), batch, 1, *size)
    kind = draw.of("labels", "one-hot", "soft")
    if kind == "labels" and classes > 1:
        options["to_onehot_y"] = True
        return x, labels.to(draw.of(uint8, int16, int64, float32))
    if kind == "soft":
        soft = draw.strided(draw.soft(*x.shape))
        return x, soft.requires_grad_(with_gradient and draw.of(True, False))
    hot = labels if classes == 1 else one_hot(labels[:, 0], classes).movedim(-1, 1)
    if norms is None:
        norms = "squared_pred" in options or "soft_label" in options
    return x, hot.to(draw.of(*((float32,) if norms else (boolean, uint8, int64, float32))))


def ignoring(draw: Draw, options: dict[str, object], target: Tensor) -> Tensor:
    """Set ``ignore_index``, and return the target with some voxels that it says to ignore."""
    index = draw.of(-1, 0, 1, 255)
    options["ignore_index"] = index
    classes = target.shape[1]
    where = draw.soft(target.shape[0], 1, *target.shape[2:]) < draw.of(0.0, 0.3, 1.0)
    if classes == 1:
        if index == 255 and target.dtype == boolean:
            return target
        if index == -1 and target.dtype == uint8:
            index = 255  # with which torch compares then
        return target.detach().masked_fill(where, index)
    if not 0 <= index < classes:
        return target.detach().masked_fill(where, 0)
    return target.float() if target.dtype == boolean else target  # of which torch takes no 1 - y


def weigh(draw: Draw, options: dict[str, object], classes: int) -> None:
    """Give the option ``weight`` at random, as MONAI takes it for so many classes."""
    classes -= classes > 1 and not options.get("include_background", True)
    row = [0.5 + c for c in range(classes)]
    kind = draw.of("none", "number", "list", "tensor")
    if kind != "none":
        options["weight"] = {"number": 2.0, "list": row, "tensor": torch.tensor(row)}[kind]
