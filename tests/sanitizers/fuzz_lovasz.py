"""Calls the native lovasz in every way that might make it read or write where it must not.

The tensors are those of fuzz_region_sums.py: strange layouts, values and labels.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import torch

from segloss_fast import lovasz
from segloss_fast.ops.lovasz.options import ACTIVATIONS
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
)

# The fewest, the most, few bits and many.
BINS = (None, 72, 2048, 65536)

draw = random.Random(0)


def run_valid(dtype: torch.dtype, layout: str, target_dtype: torch.dtype, dense: bool) -> None:
    classes = draw.choice(CLASSES)
    batch, *space = draw.choice(SHAPES)
    shape = (batch, classes, *space)
    activation = draw.choice([a for a in ACTIVATIONS if classes > 1 or a != "softmax"])
    ignored = None if dense and classes > 1 else draw.choice(IGNORED)
    wild = draw.random() < 0.3
    x = lay_out(random_input(shape, dtype, activation, wild), layout).requires_grad_()
    target = random_target(shape, target_dtype, dense, ignored)
    target = lay_out(target, draw.choice(LAYOUTS))
    options: dict[str, Any] = {
        "activation": activation,
        "method": draw.choice(("sort", "histogram")),
        "bins": draw.choice(BINS),
        "per_image": draw.random() < 0.5,
        "ignore_index": ignored,
        "cross_entropy": draw.random() < 0.5,
    }
    case = f"{shape} {dtype} {layout} {target_dtype} {dense=} {wild=} {options}"
    try:
        sums = lovasz(x, target, impl="native", **options)
    except ValueError as error:
        raise AssertionError(f"{case}: {error}") from error
    total = (sums.loss * torch.randn_like(sums.loss)).sum()
    if sums.cross_entropy is not None:
        total = total + sums.cross_entropy.sum()
    (grad,) = torch.autograd.grad(total, x)
    # Errors of 2^16 and more have no bin.
    strange = wild or (activation == "hinge" and dtype == torch.float16)
    assert strange or not (sums.loss.isnan().any() or grad.isnan().any()), f"{case}: NaN"


def run_bad_label(dtype: torch.dtype, target_dtype: torch.dtype, label: float) -> None:
    """Forward counts the label and refuses it; the operators by themselves must survive it."""
    classes = draw.choice(CLASSES[1:])
    batch, *space = draw.choice([shape for shape in SHAPES if 0 not in shape])
    shape = (batch, classes, *space)
    x = lay_out(torch.randn(shape, dtype=dtype), draw.choice(LAYOUTS))
    target = random_target(shape, target_dtype, False, None).flatten()
    target[draw.choice((0, len(target) // 2, -1))] = label
    target = lay_out(target.view(batch, *space), draw.choice(DISTINCT))
    message = ""
    try:
        lovasz(x, target, method=draw.choice(("sort", "histogram")), impl="native")
    except ValueError as error:
        message = str(error)
    case = f"{label} among {target_dtype} labels of {classes} classes"
    assert "got 1 other values" in message, f"{case}: {message}"
    call = {"x": x, "target": target, "act": draw.randrange(3), "e": 9, "b": 1}
    run_raw(call, ((1, classes, 72), (batch, classes, 72)))


# Images, classes and bins: those of run_malformed's input, pooled or not, and others.
SIZES = ((1, 3, 72), (2, 3, 72), (1, 3, 71), (3, 3, 72), (1, 2, 72))


def run_raw(call: dict[str, Any], sizes: tuple[tuple[int, int, int], ...] = SIZES) -> None:
    """Every raw operator, with gradients of these sizes."""
    x, target, act, e, b = (call[key] for key in ("x", "target", "act", "e", "b"))
    double = torch.float64
    for images, classes, bins in sizes:
        incoming = torch.ones(images, classes, dtype=double)
        counts = torch.ones(2, images, classes, 2, bins, dtype=torch.int64)
        for rows in (torch.zeros(2, images, classes, dtype=double), torch.zeros(1, dtype=double)):
            attempt("_lovasz_scan", counts, rows, act, e, b, True)
        for dtype in (torch.float32, double):
            table = torch.ones(images, classes, 2, bins, dtype=dtype)
            attempt("_lovasz_backward", table, incoming, incoming, x, target, act, e, b, None)
            attempt("_lovasz_backward", table, incoming[:, :1], None, x, target, act, e, b, 1)
            g = torch.ones(x.shape, dtype=dtype)
            attempt("_lovasz_sort_backward", g, incoming, None, x, target, act, None)
            attempt("_lovasz_sort_backward", g[:1], incoming, incoming[:, :1], x, target, act, 1)
    for per_image in (False, True):
        attempt("_lovasz_count", x, target, act, e, b, per_image, 1, True)
        attempt("_lovasz_sort", x, target, act, per_image, None, True, per_image)


def run_malformed() -> None:
    """Calls that Python's checks would refuse, made directly: an error, or a harmless answer."""
    x, labels = torch.randn(2, 3, 5, 7), torch.zeros(2, 5, 7, dtype=torch.int64)
    good: dict[str, Any] = {"x": x, "target": labels, "act": 0, "e": 9, "b": 1}
    changes: list[dict[str, Any]] = [
        {},
        *({"act": value} for value in (-1, 3, 2**40)),
        *({"e": value} for value in (0, 8, -1, 17, 2**40)),
        *({"b": value} for value in (-1, 0, 11, 63, 2**40)),
        {"e": 16, "b": 10},
        *({"target": value} for value in (labels[:1], labels[..., :6], labels[:, :, 0])),
        {"target": x[:, :2]},
        {"target": labels[..., None, None]},
        {"target": labels.to(torch.complex64)},
        {"x": x[:, :, 0, 0]},
        {"x": x[:, :, None, None, None]},
        {"x": x[:, :0]},
        {"x": x[:, :1]},
        *({"x": x.to(dtype)} for dtype in (*INTEGER, torch.bool, torch.complex64)),
    ]
    for change in changes:
        run_raw({**good, **change})


def run_all() -> None:
    targets = (torch.bool, *INTEGER, *FLOATING)
    for case in share(itertools.product(FLOATING, LAYOUTS, targets, (False, True))):
        run_valid(*case)
    bad = [(target, label) for target, labels in LABELS.items() for label in labels]
    for dtype, (target, label) in share(itertools.product(FLOATING, bad)):
        run_bad_label(dtype, target, label)
    run_malformed()
    # Large enough for huge pages, for groups that threads share, and for many chunks.
    x = torch.randn(1, 3, 64, 96, 100, requires_grad=True)
    for method in ("sort", "histogram"):
        sums = lovasz(x, torch.zeros(1, 64, 96, 100), method=method, impl="native")
        torch.autograd.grad(sums.loss.sum(), x)


if __name__ == "__main__":
    every_instruction_set(run_all)
