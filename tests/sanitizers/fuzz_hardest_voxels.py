"""Calls the native hardest_voxels in every way that might make it read or write where it must not.

The tensors are those of fuzz_region_sums.py: strange layouts, values and labels.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import torch
from torch import Tensor

from segloss_fast.ops.hardest_voxels import Rule, hardest_voxels, reference
from segloss_fast.ops.region_sums import ACTIVATIONS
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
    random_weight,
)

draw = random.Random(0)


def check(x: Tensor, target: Tensor, weight: Tensor | None, rule: Rule, case: str) -> None:
    """Assert that as many voxels are selected as there should be, and none that does not count."""
    found, selected = hardest_voxels(x, target, weight, rule, impl="native")
    _, counts = reference.cross_entropy(x, target, weight, rule)
    counted = int(counts.sum())
    wanted = min(counted, max(1, int(counted * rule.k / 100)))
    assert abs(selected.sum().item() - wanted) <= 1e-6 * wanted, case
    assert (found[:, 0][~counts] == 0).all(), case
    assert ((found >= 0) & (found <= 1)).all(), case


def run(dtype: torch.dtype, layout: str, target_dtype: torch.dtype, dense: bool) -> None:
    batch, *space = draw.choice(SHAPES)
    classes = draw.choice(CLASSES)
    shape = (batch, classes, *space)
    activation = draw.choice([name for name in ACTIVATIONS if classes > 1 or name != "softmax"])
    ignored = None if dense and classes > 1 else draw.choice(IGNORED)
    wild = draw.random() < 0.3
    x = lay_out(random_input(shape, dtype, activation, wild), layout)
    target = random_target(shape, target_dtype, dense, ignored)
    if not dense and target.numel() > 0 and target_dtype in LABELS and draw.random() < 0.5:
        target.view(-1)[draw.randrange(target.numel())] = draw.choice(LABELS[target_dtype])
    target = lay_out(target, draw.choice(LAYOUTS))
    weight = random_weight(shape)
    class_weight = torch.rand(classes, dtype=torch.float64) if draw.random() < 0.5 else None
    k = draw.choice((1e-9, 0.5, 10.0, 50.0, 99.9, 100.0))
    rule = Rule(k, activation, draw.choice((0, 1)), class_weight, ignored)
    case = f"{shape} {dtype} {layout} {target_dtype} {dense=} {wild=} {rule}"
    check(x, target, weight, rule, case)


def run_malformed() -> None:
    """Calls that Python's checks would refuse, made directly: an error, or a harmless answer."""
    x, labels = torch.randn(2, 3, 5, 7), torch.zeros(2, 5, 7, dtype=torch.int64)
    good: dict[str, Any] = {
        "input": x,
        "target": labels,
        "weight": None,
        "class_weight": None,
        "k": 10.0,
        "activation": 0,
        "first": 0,
    }
    row = torch.ones(3, dtype=torch.float64)
    changes: list[dict[str, Any]] = [
        *({"activation": value} for value in (-1, 3, 2**40)),
        *({"first": value} for value in (-1, 3, 4, 2**40)),
        *({"k": value} for value in (0.0, -1.0, 101.0, torch.nan, torch.inf)),
        *({"class_weight": w} for w in (row[:2], row.float(), row[None], row[:1].expand(3))),
        *({"target": t} for t in (labels[:1], labels[..., :6], labels[:, :, 0], x[:, :2])),
        {"target": labels[..., None, None]},
        {"target": labels.to(torch.complex64)},
        *({"weight": w} for w in (x[:, :2], x[..., :1], x[:1], labels)),
        *({"input": t} for t in (x[:, :, 0, 0], x[:, :, None, None, None], x[:, :0], x[:, :1])),
        *({"input": x.to(dtype)} for dtype in (*INTEGER, torch.bool, torch.complex64)),
    ]
    for change in changes:
        attempt("_hardest_voxels", *{**good, **change}.values(), None)


def run_all() -> None:
    targets = (torch.bool, *INTEGER, *FLOATING)
    for case in share(itertools.product(FLOATING, LAYOUTS, targets, (False, True))):
        run(*case)
    run_malformed()
    # Large enough for huge pages under the map.
    x = torch.randn(1, 2, 128, 96, 100)
    hardest_voxels(x, torch.zeros(1, 128, 96, 100), None, Rule(10.0, "softmax"), impl="native")


if __name__ == "__main__":
    every_instruction_set(run_all)
