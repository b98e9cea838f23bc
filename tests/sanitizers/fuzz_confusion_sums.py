"""Calls the native confusion_sums in every way that might make it read or write where it must not.

The tensors are those of fuzz_region_sums.py: strange layouts, values and labels.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import torch

from segloss_fast.ops.confusion_sums import confusion_sums
from segloss_fast.ops.region_sums import ACTIVATIONS
from tests.sanitizers.driver import attempt, every_instruction_set, share
from tests.sanitizers.fuzz_region_sums import (
    CLASSES,
    DISTINCT,
    FLOATING,
    IGNORED,
    INTEGER,
    LABELS,
    LAYOUTS,
    SHAPES,
    lay_out,
    random_input,
    random_target,
    random_weight,
)

draw = random.Random(0)


def run_valid(dtype: torch.dtype, layout: str, target_dtype: torch.dtype, dense: bool) -> None:
    batch, *space = draw.choice(SHAPES)
    shape = (batch, draw.choice(CLASSES[1:]), *space)
    activation = draw.choice(ACTIVATIONS)
    ignored = None if dense else draw.choice(IGNORED)
    wild = draw.random() < 0.3
    x = lay_out(random_input(shape, dtype, activation, wild), layout).requires_grad_()
    target = random_target(shape, target_dtype, dense, ignored)
    target = lay_out(target, draw.choice(LAYOUTS))
    weight = random_weight(shape)
    case = f"{shape} {dtype} {layout} {target_dtype} {dense=} {ignored=} {wild=} {activation}"
    found = confusion_sums(
        x,
        target,
        activation=activation,
        voxel_weight=weight,
        ignore_index=ignored,
        impl="native",
    )
    incoming = torch.randn_like(found)
    if draw.random() < 0.5:
        incoming = incoming[:1, :1, :1].expand_as(incoming)
    (grad,) = torch.autograd.grad(found, x, incoming)
    assert wild or not (found.isnan().any() or grad.isnan().any()), f"{case}: NaN"


def run_bad_label(dtype: torch.dtype, target_dtype: torch.dtype, label: float) -> None:
    """Forward counts the label and refuses it; backward, called by itself, must survive it."""
    classes = draw.choice(CLASSES[1:])
    batch, *space = draw.choice([shape for shape in SHAPES if 0 not in shape])
    shape = (batch, classes, *space)
    x = lay_out(torch.randn(shape, dtype=dtype), draw.choice(LAYOUTS))
    target = random_target(shape, target_dtype, False, None).flatten()
    target[draw.choice((0, len(target) // 2, -1))] = label
    target = lay_out(target.view(batch, *space), draw.choice(DISTINCT))
    weight = random_weight(shape)
    for ignored in (None, 0, -(2**63)):
        if label == ignored:
            continue
        message = ""
        try:
            confusion_sums(x, target, voxel_weight=weight, ignore_index=ignored, impl="native")
        except ValueError as error:
            message = str(error)
        case = f"{label} among {target_dtype} labels of {classes} classes, {ignored=}"
        assert "got 1 other values" in message, f"{case}: {message}"
        grad = torch.ones(batch, classes, classes + 1, dtype=torch.float64)
        torch.ops.segloss_fast.confusion_sums_backward(
            grad, x, target, weight, draw.choice(ACTIVATIONS), ignored, "native"
        )


def run_malformed() -> None:
    """Calls that Python's checks would refuse, made directly: an error, or a harmless answer."""
    x, labels = torch.randn(2, 3, 5, 7), torch.zeros(2, 5, 7, dtype=torch.int64)
    good: dict[str, Any] = {"input": x, "target": labels, "weight": None, "activation": 0}
    changes: list[dict[str, Any]] = [
        {},
        *({"activation": value} for value in (-1, 3, 2**40)),
        *({"target": t} for t in (labels[:1], labels[..., :6], labels[:, :, 0], x[:, :2])),
        {"target": labels[..., None, None]},
        {"target": labels.to(torch.complex64)},
        *({"weight": w} for w in (x[:, :2], x[..., :1], x[:1], labels)),
        *({"input": t} for t in (x[:, :, 0, 0], x[:, :, None, None, None], x[:, :0], x[:, :1])),
        *({"input": x.to(dtype)} for dtype in (*INTEGER, torch.bool, torch.complex64)),
    ]
    for change in changes:
        arguments = (*{**good, **change}.values(), None)
        attempt("_confusion_sums", *arguments)
        for size in (24, 8, 25, 0):
            for dtype in (torch.float64, torch.float32):
                grad = torch.ones(size, dtype=dtype)
                attempt("_confusion_sums_backward", grad, *arguments)


def run_all() -> None:
    targets = (torch.bool, *INTEGER, *FLOATING)
    for case in share(itertools.product(FLOATING, LAYOUTS, targets, (False, True))):
        run_valid(*case)
    bad = [(target, label) for target, labels in LABELS.items() for label in labels]
    for dtype, (target, label) in share(itertools.product(FLOATING, bad)):
        run_bad_label(dtype, target, label)
    run_malformed()


if __name__ == "__main__":
    every_instruction_set(run_all)
