"""Random options, outputs and targets of nnU-Net's losses."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tests import peers
from tests.compat.grid import Call, Draw

FLOATING = (torch.float32, torch.float32, torch.float64, torch.float16, torch.bfloat16)
HALF = (torch.float16, torch.bfloat16)
LABELS = (torch.int16, torch.int16, torch.int64, torch.uint8, torch.int32, torch.int8)
MODULES = {
    "SoftDiceLoss": "dice",
    "MemoryEfficientSoftDiceLoss": "dice",
    "RobustCrossEntropyLoss": "robust_ce_loss",
    "TopKLoss": "robust_ce_loss",
    "DC_and_CE_loss": "compound_losses",
    "DC_and_BCE_loss": "compound_losses",
    "DC_and_topk_loss": "compound_losses",
    "DeepSupervisionWrapper": "deep_supervision",
}


def peer(name: str) -> Callable[..., Any]:
    """Return a class of nnU-Net, which is looked for when it is called."""
    return lambda *args, **options: getattr(peers.nnunet_losses(MODULES[name]), name)(
        *args, **options
    )


def halved(x: Tensor) -> Tensor:
    """Be an activation that is neither softmax nor sigmoid."""
    return 0.5 + x / (2 + 2 * x.abs())


def shape(draw: Draw, classes: Sequence[int] = (2, 3, 4)) -> tuple[int, ...]:
    """Return a random ``[B, C, *S]``."""
    return draw.of(1, 2, 3), draw.of(*classes), *draw.size(draw.of(1, 2, 3))


def output(draw: Draw, size: Sequence[int]) -> Tensor:
    """Return logits of any spread, layout and dtype."""
    x = draw.strided(draw.normal(*size, spread=draw.of(0.5, 3.0)))
    return x.to(draw.of(*FLOATING))


def labels(
    draw: Draw, size: Sequence[int], ignored: int | None = None, *, some: bool = False
) -> Tensor:
    """Return class indices ``[B, 1, *S]``; some voxels, or all, may be ignored.

    Of a compound nnU-Net's value of none is that of Dice alone, float32, or the number 0.
    """
    found = draw.labels(size[1], size[0], 1, *size[2:])
    dtype = draw.of(*LABELS, torch.float32)
    if ignored is not None:
        dtype = torch.int16 if ignored < 0 else dtype
        share = draw.of(0.0, 0.3, 0.3, 0.3, 1.0)
        found = found.masked_fill(draw.soft(*found.shape) < share, ignored)
        if some:
            found.view(-1)[::2] = 0
    return draw.strided(found.to(dtype))


def dice_options(draw: Draw, *, clip: bool) -> dict[str, Any]:
    """Return arguments of a Dice loss, without its activation."""
    options = draw.options(
        {
            "batch_dice": (True,),
            "do_bg": (False,),
            "smooth": (0.0, 1e-5, 1.0, 3.5),
            **({"clip_tp": (0.5, 20.0)} if clip else {}),
        }
    )
    return {"ddp": False, **options}


def dice(clip: bool) -> Callable[[random.Random], Call]:
    """Return what makes random calls of SoftDiceLoss, or MemoryEfficientSoftDiceLoss."""

    def call(generator: random.Random) -> Call:
        draw = Draw(generator)
        options = dice_options(draw, clip=clip)
        softmax = peers.nnunet_losses("compound_losses").softmax_helper_dim1
        nonlin = draw.of(softmax, torch.sigmoid, torch.nn.Softmax(1), None, halved)
        size = shape(draw, (1, 2, 3, 4) if options.get("do_bg", True) else (2, 3, 4))
        x = output(draw, size)
        if nonlin is halved:  # which rounds in half precision
            x = x.to(draw.of(torch.float32, torch.float64))
        if nonlin is None:
            x = torch.rand(size, generator=draw.torch).to(x.dtype)
        y = labels(draw, size)
        if size[1] == 1 or draw.of(True, False):  # values
            y = draw.soft(*size)
            y = draw.of(y, y > 0.5, (y > 0.5).to(torch.uint8))
        elif draw.of(True, False):
            y = y[:, 0]
        mask = draw.soft(size[0], 1, *size[2:])
        mask = draw.of(None, None, mask > 0.4, mask > 0.4, mask, (mask > 0.4).long())
        if not clip and options.get("do_bg") is False and size[1] > 2 and draw.of(True, False):
            mask = draw.soft(size[0], size[1] - 1, *size[2:])  # a channel per class that counts
        if draw.of(True, False):
            options["apply_nonlin"] = nonlin
        elif nonlin is not None:
            x = nonlin(x.float()).to(x.dtype).detach()
        return Call(options, x, (y, mask))

    return call


def weight(draw: Draw, classes: int, x: Tensor) -> Tensor | None:
    """Return weights of classes in the dtype that torch asks for, or None."""
    drawn = 0.5 + draw.soft(classes)
    return drawn.to(x.dtype) if draw.of(False, True) else None


def entropy(generator: random.Random) -> Call:
    """Return a random call of RobustCrossEntropyLoss."""
    draw = Draw(generator)
    size = shape(draw)
    x = output(draw, size)
    ignored = draw.of(None, None, -100, -1, size[1], 1)
    options = draw.options({"label_smoothing": (0.1, 0.4), "reduction": ("sum", "mean", "none")})
    if ignored is not None and ignored != -100:
        options["ignore_index"] = ignored
    options["weight"] = weight(draw, size[1], x)
    y = labels(draw, size, ignored)
    return Call(options, x, (draw.of(y, y[:, 0]),))


def topk(generator: random.Random) -> Call:
    """Return a random call of TopKLoss, without equal voxels, which half precision would have."""
    draw = Draw(generator)
    size = shape(draw)
    x = draw.normal(*size).to(draw.of(torch.float32, torch.float64))
    ignored = draw.of(None, None, -100, size[1], 1)
    options = draw.options({"k": (10, 25.5, 80, 100), "label_smoothing": (0.1,)}, given=0.6)
    if ignored is not None and ignored != -100:
        options["ignore_index"] = ignored
    options["weight"] = weight(draw, size[1], x)
    return Call(options, x, (labels(draw, size, ignored),))


def weights(draw: Draw) -> dict[str, Any]:
    """Return factors of the parts of a compound loss, not both 0."""
    both: tuple[dict[str, Any], ...] = (
        {},
        {},
        {"weight_ce": 0.7},
        {"weight_dice": 1.5, "weight_ce": 2},
    )
    one: tuple[dict[str, Any], ...] = ({"weight_ce": 0}, {"weight_dice": 0})
    return dict(draw.of(*both, *one))


def dice_and_ce(generator: random.Random) -> Call:
    """Return a random call of DC_and_CE_loss."""
    draw = Draw(generator)
    size = shape(draw)
    x = output(draw, size)
    memory = draw.of(True, False)
    ignored = draw.of(None, None, size[1], -1, 1)
    ce = draw.options({"label_smoothing": (0.1,), "reduction": ("sum",)}, given=0.2)
    ce["weight"] = weight(draw, size[1], x)
    if ignored is None and draw.of(True, False, False, False):
        ce["ignore_index"] = 1  # of the cross-entropy alone
    options = {
        "soft_dice_kwargs": dice_options(draw, clip=not memory),
        "ce_kwargs": ce,
        "ignore_label": ignored,
        "dice_class": "MemoryEfficientSoftDiceLoss" if memory else "SoftDiceLoss",
        **weights(draw),
    }
    if x.dtype in HALF and ce.get("ignore_index") is not None and ce.get("label_smoothing"):
        x = x.float()  # two passes, of which one is in half precision
        ce["weight"] = None if ce["weight"] is None else ce["weight"].float()
    some = x.dtype == torch.float64 or options.get("weight_dice") == 0
    return Call(options, x, (labels(draw, size, ignored, some=some),))


def dice_and_bce(generator: random.Random) -> Call:
    """Return a random call of DC_and_BCE_loss."""
    draw = Draw(generator)
    size = shape(draw, (1, 2, 3))
    x = output(draw, size)
    memory = draw.of(True, False)
    ignoring = draw.of(True, False)
    bce = draw.options({"reduction": ("sum", "mean")}, given=0.3)
    if draw.of(True, False, False):
        bce["pos_weight"] = (0.5 + draw.soft(size[1], *[1] * (x.dim() - 2))).to(x.dtype)
    options = {
        "bce_kwargs": bce,
        "soft_dice_kwargs": dice_options(draw, clip=not memory),
        "use_ignore_label": ignoring,
        "dice_class": "MemoryEfficientSoftDiceLoss" if memory else "SoftDiceLoss",
        **weights(draw),
    }
    if size[1] == 1:
        options["soft_dice_kwargs"]["do_bg"] = True
    y = draw.soft(size[0], size[1] + ignoring, *size[2:])
    y = (y < 1 if draw.of(*[False] * 5, True) else y > 0.6).to(
        draw.of(torch.bool, torch.bool, torch.float32, torch.int16)
    )
    return Call(options, x, (draw.strided(y),))


def dice_and_topk(generator: random.Random) -> Call:
    """Return a random call of DC_and_topk_loss."""
    draw = Draw(generator)
    size = shape(draw)
    x = draw.normal(*size).to(draw.of(torch.float32, torch.float64))
    ignored = draw.of(None, None, size[1], 1)
    ce = draw.options({"k": (10, 30), "label_smoothing": (0.1,)}, given=0.4)
    ce["weight"] = weight(draw, size[1], x)
    options = {
        "soft_dice_kwargs": dice_options(draw, clip=True),
        "ce_kwargs": ce,
        "ignore_label": ignored,
        **weights(draw),
    }
    some = x.dtype == torch.float64 or options.get("weight_dice") == 0
    return Call(options, x, (labels(draw, size, ignored, some=some),))


LOSSES = {
    "DC_and_CE_loss": dice_and_ce,
    "DC_and_BCE_loss": dice_and_bce,
    "DC_and_topk_loss": dice_and_topk,
    "MemoryEfficientSoftDiceLoss": dice(clip=False),
    "RobustCrossEntropyLoss": entropy,
}


def levels(generator: random.Random) -> Call:
    """Return a random call of DeepSupervisionWrapper, over outputs that halve some sides."""
    draw = Draw(generator)
    name = draw.of(*LOSSES, "DC_and_CE_loss", "DC_and_BCE_loss")
    first = LOSSES[name](generator)
    if first.options.get("reduction") == "none":
        first.options["reduction"] = "mean"  # type: ignore[index]
    dtype = torch.float64 if first.input.dtype == torch.float64 else torch.float32
    inputs, others = [first.input.to(dtype)], [tuple(first.others)]
    for _ in range(draw.of(0, 1, 2, 3)):
        step = [draw.of(1, 2) for _ in inputs[0].shape[2:]]
        slices = (..., *(slice(None, None, s) for s in step))
        inputs.append(draw.normal(*inputs[-1][slices].shape).to(dtype))
        others.append(tuple(_part(x, slices, inputs[0].dim()) for x in others[-1]))
    for part in ("ce_kwargs", "bce_kwargs"):
        for key, value in first.options.get(part, {}).items():
            if isinstance(value, Tensor):
                first.options[part][key] = value.to(dtype)
    if isinstance(first.options.get("weight"), Tensor):
        first.options["weight"] = first.options["weight"].to(dtype)  # type: ignore[index]
    factors = [draw.of(0.0, 0.25, 1.0) for _ in inputs]
    factors[0] = 0.5
    options = {"name": name, "options": first.options, "weight_factors": factors}
    return Call(options, tuple(inputs), tuple(list(each) for each in zip(*others, strict=True)))


def _part(x: object, slices: Any, rank: int) -> object:  # noqa: ANN401
    if not isinstance(x, Tensor):
        return x
    return x[slices] if x.dim() >= rank - 1 else x
