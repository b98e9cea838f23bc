"""Calls the native region_masks in every way that might make it read or write where it must not.

The tensors are those of fuzz_region_sums.py: strange layouts, values and labels.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import torch

from segloss_fast.ops.region_masks import prediction_masks, target_masks
from tests.sanitizers.driver import attempt, every_instruction_set, share
from tests.sanitizers.fuzz_region_sums import (
    CLASSES,
    FLOATING,
    IGNORED,
    INTEGER,
    LABELS,
    LAYOUTS,
    SHAPES,
    lay_out,
    random_input,
    random_target,
)

draw = random.Random(0)


def run_prediction(dtype: torch.dtype, layout: str, wild: bool) -> None:
    classes = draw.choice(CLASSES)
    batch, *space = draw.choice(SHAPES)
    activations = ["sigmoid", "probabilities"] + (["softmax"] if classes > 1 else [])
    activation = draw.choice(activations)
    x = lay_out(random_input((batch, classes, *space), dtype, activation, wild), layout)
    kind = draw.choice((*FLOATING, *INTEGER, torch.bool))
    ignored = draw.choice(IGNORED)
    labels = random_target((batch, classes, *space), kind, False, ignored)
    labels = lay_out(labels, draw.choice(LAYOUTS)) if labels.dim() > 2 else labels
    options: dict[str, Any] = {
        "activation": activation,
        "ignore_index": ignored,
        "first": draw.choice((0, 1)),
    }
    found = prediction_masks(x, labels, impl="native", **options)
    expected = prediction_masks(x, labels, impl="reference", **options)
    # At a probability of one half a rounding may decide.
    assert (found != expected).sum() <= 1e-3 * found.numel(), f"{dtype} {layout} {options}"


def run_target(dtype: torch.dtype, layout: str, dense: bool) -> None:
    classes = draw.choice(CLASSES)
    batch, *space = draw.choice(SHAPES)
    ignored = None if dense and classes > 1 else draw.choice(IGNORED)
    target = random_target((batch, classes, *space), dtype, dense, ignored)
    if not dense and target.numel() > 0 and dtype in LABELS and draw.random() < 0.5:
        target.view(-1)[draw.randrange(target.numel())] = draw.choice(LABELS[dtype])
    target = lay_out(target, layout) if target.dim() > 2 else target
    options: dict[str, Any] = {"dense": dense, "ignore_index": ignored}
    found = target_masks(target, classes, impl="native", **options)
    expected = target_masks(target, classes, impl="reference", **options)
    assert torch.equal(found, expected), f"{dtype} {layout} {classes} {options}"


def run_malformed() -> None:
    """Calls that nobody makes through Python: an error, or a harmless answer."""
    x, labels = torch.randn(2, 3, 5), torch.zeros(2, 5, dtype=torch.int64)
    good: dict[str, Any] = {
        "values": x,
        "labels": labels,
        "classes": 3,
        "mode": 0,
        "ignore_index": 1,
        "first": 0,
    }
    changes: list[dict[str, Any]] = [
        {"values": torch.zeros(3)},
        {"values": torch.zeros(2, 3, 5, dtype=torch.complex64)},
        {"values": x[:, :2]},
        {"labels": labels[:, :4]},
        {"labels": labels[:1]},
        {"labels": x},
        *({"classes": value} for value in (0, -1, 2, 4, 2**40)),
        *({"mode": value} for value in (-1, 3, 4, 2**40)),
        *({"first": value} for value in (-1, 3, 4, 2**40)),
    ]
    for change in changes:
        attempt("_region_masks", *{**good, **change}.values())


def run_all() -> None:
    for dtype, layout, wild, _ in share(
        itertools.product(FLOATING, LAYOUTS, (False, True), range(6))
    ):
        run_prediction(dtype, layout, wild)
    kinds = (*FLOATING, *INTEGER, torch.bool)
    for dtype, layout, dense, _ in share(
        itertools.product(kinds, LAYOUTS, (False, True), range(3))
    ):
        run_target(dtype, layout, dense)
    run_malformed()


if __name__ == "__main__":
    every_instruction_set(run_all)
