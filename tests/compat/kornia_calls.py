"""Random options, predictions and targets of kornia's losses."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, float16, float32, float64, int64, nn

from tests.compat.grid import Call, Draw, Drop


class Flattened(nn.Module):
    """A loss of kornia that takes images only, for volumes: as images of one side less."""

    def __init__(self, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        if pred.dim() == 5:
            pred, target = pred.flatten(2, 3), target.flatten(1, 2)
        loss: Tensor = self.loss(pred, target)
        return loss


def flattened(loss: Callable[..., Any]) -> Callable[..., nn.Module]:
    """Return the constructor of a loss that takes volumes."""
    return lambda **options: Flattened(loss(**options))


def drops(
    ours: Any,  # noqa: ANN401
    theirs: Any,  # noqa: ANN401
    call: Callable[[random.Random], Call],
    cases: int,
    judge: Callable[[Call], Tensor] | None = None,
    *,
    images: bool = True,
) -> dict[str, Drop]:
    """Return the drop-ins of a function and of its module, by name.

    Args:
        ours: The function, and the module.
        theirs: The same of kornia's.
        call: Makes a random call.
        cases: Of the module; the function has 50.
        judge: As in Drop.
        images: Whether kornia takes images only.
    """

    def peer(construct: Callable[..., Any]) -> Callable[..., Any]:
        return flattened(construct) if images else construct

    def bound(function: Callable[..., Tensor]) -> Callable[..., Any]:
        return lambda **options: partial(function, **options)

    function, module = ours
    return {
        module.__name__: Drop(module, peer(theirs[1]), call, cases, judge),
        function.__name__: Drop(bound(function), peer(bound(theirs[0])), call, 50, judge),
    }


def shape(draw: Draw, ranks: Sequence[int], classes: Sequence[int]) -> tuple[int, ...]:
    """Return a random ``[B, C, *S]``."""
    return draw.of(1, 2, 3), draw.of(*classes), *draw.size(draw.of(*ranks))


def logits(draw: Draw, size: Sequence[int]) -> Tensor:
    """Return logits of any spread, layout and dtype."""
    x = draw.strided(draw.normal(*size, spread=draw.of(0.5, 3.0)))
    return x.to(draw.of(float32, float32, float64, float16, torch.bfloat16))


def labels(draw: Draw, options: dict[str, Any], size: Sequence[int]) -> Tensor:
    """Return class indices of ``[B, C, *S]``, and set what is ignored."""
    target = draw.strided(draw.labels(size[1], size[0], *size[2:]))
    ignored = draw.of(-100, -100, None, 255, 0, 1)
    if ignored != -100:
        options["ignore_index"] = ignored
    if ignored is None:
        return target
    share = draw.of(0.0, 0.0, 0.2, 0.2, 1.0)
    return target.masked_fill(draw.soft(*target.shape) < share, ignored)


def weights(draw: Draw, classes: int) -> Tensor:
    """Return a number for each class."""
    weight = draw.soft(classes) * draw.of(1, 3)
    if draw.of(True, False, False):
        weight[draw.pick.randrange(classes)] = 0
    if draw.of(True, False, False, False):
        return torch.arange(1, classes + 1)
    found: Tensor = weight.to(draw.of(float32, float32, float64, float16))
    return found


def binary_values(draw: Draw, options: dict[str, Any], size: Sequence[int]) -> Tensor:
    """Return values in [0, 1] of ``[B, C, *S]``, and set what is ignored."""
    soft = draw.soft(*size)
    dtype = draw.of(float32, float32, float64, int64, torch.uint8, torch.int32)
    target = soft if dtype.is_floating_point and draw.of(True, False) else (soft > 0.5)
    target = draw.strided(target.to(dtype))
    ignored = draw.of(-100, -100, None, 255, 0, 1)
    if ignored != -100:
        options["ignore_index"] = ignored
    if ignored is None or (ignored == -100 and dtype == torch.uint8):
        return target
    found: Tensor = target.masked_fill(draw.soft(*size) < draw.of(0.0, 0.2, 1.0), ignored)
    return found
