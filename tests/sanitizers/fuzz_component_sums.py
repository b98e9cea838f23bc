"""Calls the native component_sums in every way that might make it read or write where it must not.

The tensors are those of fuzz_region_sums.py: strange layouts, values and labels.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import torch
from torch import Tensor

from segloss_fast import component_sums
from segloss_fast.ops.component_sums import TERMS
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

COUNTS = (0, 1, 3, 40, 3_000)
WILD_BINS = (-1, -(2**31), 2**31 - 1, 3_001)
draw = random.Random(0)


def random_bins(shape: tuple[int, ...], count: int) -> Tensor:
    """Return bins in runs, of all classes together or of each."""
    channels = draw.choice((1, shape[1]))
    bins = torch.randint(0, count + 1, (shape[0], channels, *shape[2:]), dtype=torch.int32)
    if draw.random() < 0.7:
        kept = torch.rand(bins.shape) < 0.1
        bins = torch.where(kept, bins, draw.randint(0, count))
    return lay_out(bins.to(torch.int32), draw.choice(LAYOUTS))


def run_valid(dtype: torch.dtype, layout: str, target_dtype: torch.dtype, dense: bool) -> None:
    batch, *space = draw.choice(SHAPES)
    shape = (batch, draw.choice(CLASSES), *space)
    dense = dense and shape[1] > 1
    activation = draw.choice([name for name in ACTIVATIONS if shape[1] > 1 or name != "softmax"])
    ignored = None if dense else draw.choice(IGNORED)
    wild, count = draw.random() < 0.3, draw.choice(COUNTS)
    x = lay_out(random_input(shape, dtype, activation, wild), layout).requires_grad_()
    target = random_target(shape, target_dtype, dense, ignored)
    target = lay_out(target.round() if dense and target.is_floating_point() else target, layout)
    bins, weight = random_bins(shape, count), random_weight(shape)
    lost = draw.random() < 0.2 and bins.numel() > 0 and bins.is_contiguous()
    if lost:
        bins.flatten()[draw.choice((0, bins.numel() // 2, -1))] = draw.choice(WILD_BINS)
    terms = TERMS if draw.random() < 0.4 else draw.sample(TERMS, draw.randint(1, 4))
    case = f"{shape} {dtype} {layout} {target_dtype} {dense=} {ignored=} {wild=} {activation}"
    rows = component_sums(
        *(x, target, bins),
        count=count,
        activation=activation,
        terms=terms,
        voxel_weight=weight,
        ignore_index=ignored,
        impl="native",
    ).rows
    incoming = torch.randn_like(rows)
    if draw.random() < 0.5:
        incoming = incoming[:, :1, :1, :1].expand_as(incoming)
    (grad,) = torch.autograd.grad(rows, x, incoming)
    assert wild or lost or not (rows.isnan().any() or grad.isnan().any()), f"{case}: NaN"


def run_bad_label(dtype: torch.dtype, target_dtype: torch.dtype, label: float) -> None:
    """Forward counts the label and refuses it; backward, called by itself, must survive it."""
    classes = draw.choice(CLASSES)
    batch, *space = draw.choice([shape for shape in SHAPES if 0 not in shape])
    shape = (batch, classes, *space)
    x = lay_out(torch.randn(shape, dtype=dtype), draw.choice(LAYOUTS))
    target = random_target(shape, target_dtype, False, None).flatten()
    if classes == 1:
        target = target.round() if target.is_floating_point() else target
    target[draw.choice((0, len(target) // 2, -1))] = label
    target = lay_out(target.view(batch, *space), draw.choice(DISTINCT))
    bins, weight = random_bins(shape, 3), random_weight(shape)
    for ignored in (None, 0, -(2**63)):
        if label == ignored:
            continue
        message = ""
        try:
            component_sums(
                *(x, target, bins),
                count=3,
                activation="sigmoid",
                voxel_weight=weight,
                ignore_index=ignored,
                impl="native",
            )
        except ValueError as error:
            message = str(error)
        case = f"{label} among {target_dtype} labels of {classes} classes, {ignored=}"
        assert "got 1 other values" in message, f"{case}: {message}"
        grad = torch.ones(2, batch, classes, 4, dtype=torch.float64)
        torch.ops.segloss_fast.component_sums_backward(
            *(grad, x, target, bins, weight, 3),
            *(draw.choice(ACTIVATIONS), ["nll_neg", "pred_sq"], ignored, "native"),
        )


def run_malformed() -> None:
    """Calls that Python's checks would refuse, made directly: an error, or a harmless answer."""
    x, labels = torch.randn(2, 3, 5, 7), torch.zeros(2, 5, 7, dtype=torch.int64)
    bins = torch.zeros(2, 1, 5, 7, dtype=torch.int32)
    good: dict[str, Any] = {"input": x, "target": labels, "bins": bins, "weight": None}
    good |= {"count": 2, "activation": 0, "terms": [0, 4]}
    changes: list[dict[str, Any]] = [
        {},
        *({"activation": value} for value in (-1, 3, 2**40)),
        *({"terms": value} for value in ([], [9], [-1], [1, 1], [2**40], list(range(9)))),
        *({"count": value} for value in (-1, 0, 2**31, 2**62, -(2**63))),
        *({"bins": value} for value in (labels, bins[:1], bins[:, 0], bins[..., :6], bins.long())),
        {"bins": bins - 1},
        {"bins": bins.expand(2, 3, 5, 7)},
        *({"target": t} for t in (labels[:1], labels[..., :6], labels[:, :, 0], x[:, :2], x)),
        {"target": labels[..., None, None]},
        {"target": labels.to(torch.complex64)},
        *({"weight": w} for w in (x[:, :2], x[..., :1], x[:1], labels)),
        *({"input": t} for t in (x[:, :, 0, 0], x[:, :, None, None, None], x[:, :0], x[:, :1])),
        *({"input": x.to(dtype)} for dtype in (*INTEGER, torch.bool, torch.complex64)),
    ]
    for change in changes:
        arguments = (*{**good, **change}.values(), None)
        attempt("_component_sums", *arguments)
        for size in (36, 12, 37, 0):
            for dtype in (torch.float64, torch.float32):
                grad = torch.ones(size, dtype=dtype)
                attempt("_component_sums_backward", grad, *arguments)


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
