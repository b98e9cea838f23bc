"""Compiles a sample of the Triton kernels of region_sums, for GPUs that need not be there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch

from segloss_fast.ops._triton.launch import Launch
from segloss_fast.ops.region_sums import triton_launch
from segloss_fast.ops.region_sums.options import TERMS, Options
from tests.ops.triton.compiler import compile_launch, specialization

LOSSES: dict[str, dict[str, Any]] = {
    "Dice": {"terms": ("tp", "pred", "target")},
    "DiceCE": {"terms": ("tp", "pred", "target", "nll")},
    "DiceFocal": {"terms": ("tp", "pred", "target", "focal")},
    "CE": {"terms": ("nll", "target")},
    "SigmoidDiceFocal": {
        "terms": ("tp", "pred", "target", "focal", "focal_neg"),
        "activation": "sigmoid",
    },
    "MixedDiceFocal": {
        "terms": ("tp", "pred", "target", "focal", "focal_neg"),
        "ce_activation": "sigmoid",
    },
    "All": {"terms": TERMS, "gamma": 1.5},
}
CLASSES = (1, 2, 3, 4, 8, 14, 32, 64, 105, 200)
DTYPES = ("float32", "float16", "bfloat16")
TARGETS = ("uint8", "int64", "dense")


def launches(
    loss: str,
    classes: int,
    dtype: str,
    target: str,
    space: tuple[int, ...] = (128, 128, 128),
    batch: int = 2,
) -> dict[str, Launch]:
    """Return the launches of a batch of volumes."""
    kind = getattr(torch, dtype)
    x = torch.empty((batch, classes, *space), dtype=kind, device="meta")
    labels = torch.empty_like(x)
    if target != "dense":
        labels = torch.empty((batch, *space), dtype=getattr(torch, target), device="meta")
    options = Options(**{**LOSSES[loss], **_defaults(loss, classes)})
    rows = x.new_empty((len(options.terms), batch, classes), dtype=torch.float64)
    invalid = x.new_empty(2, dtype=torch.float64)
    first, total = triton_launch.forward_launches(x, labels, None, options, rows, invalid)
    back = triton_launch.backward_launch(torch.empty_like(x), rows, x, labels, None, options)
    return {"forward": first, "total": total, "backward": back}


def _defaults(loss: str, classes: int) -> dict[str, Any]:
    given = LOSSES[loss]
    activation = "sigmoid" if classes == 1 else given.get("activation", "softmax")
    ce_activation = "sigmoid" if classes == 1 else given.get("ce_activation", activation)
    return {
        "activation": activation,
        "ce_activation": ce_activation,
        "gamma": given.get("gamma", 2.0),
        "ignore_index": None,
    }


def sample() -> Iterator[tuple[str, int, str, str, int, str]]:
    """Yield loss, classes, dtype, target, compute capability and direction.

    DiceCE with every number of classes in both directions, all terms together with every one in
    these in turn, as other losses with every second number; dtypes and targets in turn. DiceCE with
    all pairs of a number of classes, a dtype and a target.
    """
    both = ("forward", "backward")
    turn = itertools.cycle(itertools.product(DTYPES, TARGETS))
    capabilities, directions = itertools.cycle((80, 80, 90, 90)), itertools.cycle(both)
    for place, loss in enumerate(LOSSES):
        whole = loss in ("DiceCE", "All")
        for classes in CLASSES if whole else CLASSES[place % 2 :: 2]:
            (dtype, target), capability = next(turn), next(capabilities)
            chosen = (next(directions),) if loss != "DiceCE" else both
            for direction in chosen:
                yield loss, classes, dtype, target, capability, direction
    for classes, dtype, target in pairs((4, 14)):
        for direction in both:
            yield "DiceCE", classes, dtype, target, 90, direction
    yield "DiceCE", 14, "float32", "int64", 80, "total"
    yield "DiceCE", 14, "float32", "dense", 90, "total"


def pairs(classes: tuple[int, int]) -> Iterator[tuple[int, str, str]]:
    """Yield numbers of classes, dtypes and targets such that each pair of two of them occurs."""
    for (i, number), (j, target) in itertools.product(enumerate(classes), enumerate(TARGETS)):
        yield number, DTYPES[(i + j) % 2], target


def examine(cases: list[tuple[str, int, str, str, int, str]]) -> dict[str, dict[str, Any]]:
    """Compile kernels, and then return their reports by name."""
    found = {}
    for case in cases:
        loss, classes, dtype, target, capability, direction = case
        launch = launches(loss, classes, dtype, target)[direction]
        found[case] = launch, compile_launch(launch, capability)
    return {
        " ".join(map(str, case)): {**compiled.report(), "elements": elements(launch, case[1])}
        for case, (launch, compiled) in found.items()
    }


def elements(launch: Launch, classes: int) -> float:
    """Return how many elements of the input a thread has in a round of the innermost loop."""
    kind = launch.constants.get("kind")
    if kind is None:
        return 0.0
    # By name it would be a constant of Triton's.
    block_c, block_v = (kind[kind._fields.index(name)] for name in ("BLOCK_C", "BLOCK_V"))
    return float(min(classes, block_c) * block_v / (32 * launch.warps))


def specializations(
    batch: int, space: tuple[int, ...], terms: tuple[str, ...], gamma: float, ignore_index: int
) -> list[Any]:
    """Return what decides whether the launches of a call need kernels of their own."""
    x = torch.empty(batch, 4, *space)
    target = torch.zeros((batch, *space), dtype=torch.int64)
    options = Options(terms, "softmax", "softmax", gamma, ignore_index)
    rows = torch.empty((len(terms), batch, 4), dtype=torch.float64)
    invalid = torch.empty(2, dtype=torch.float64)
    launches = (
        *triton_launch.forward_launches(x, target, None, options, rows, invalid),
        triton_launch.backward_launch(torch.empty_like(x), rows, x, target, None, options),
    )
    return [specialization(launch) for launch in launches]


def report() -> dict[str, dict[str, Any]]:
    """Return the reports of the sample."""
    one = specializations(2, (16, 16, 16), ("tp", "pred", "focal"), 1.5, 255)
    assert one == specializations(1, (32, 48, 8), ("focal", "tp", "pred"), 3.0, 1)
    assert one == specializations(3, (8, 8, 1), ("pred", "focal", "tp"), 0.5, -1)
    return examine(list(dict.fromkeys(sample())))
