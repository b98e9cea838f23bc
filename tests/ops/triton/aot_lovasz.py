"""Compiles lovasz's Triton kernels for GPUs that need not be there, and looks at them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import torch

from segloss_fast.ops._triton.launch import Launch
from segloss_fast.ops.lovasz import triton_launch
from segloss_fast.ops.lovasz.bins import DEFAULT, number
from segloss_fast.ops.lovasz.options import ACTIVATIONS
from tests.ops.triton.aot import DTYPES, TARGETS
from tests.ops.triton.compiler import compile_launch, specialization

CLASSES = (1, 2, 3, 4, 8, 14, 32, 64, 105, 200)
SOME = {"sigmoid": (1, 3, 8, 32, 105), "hinge": (1, 4, 32)}
DIRECTIONS = ("count", "backward")


def launches(
    activation: str,
    classes: int,
    dtype: str,
    target: str,
    channels_last: bool = False,
    ignore_index: int | None = None,
    space: tuple[int, ...] = (64, 64, 64),
    batch: int = 2,
) -> dict[str, Launch]:
    """Return the launches of a batch of volumes."""
    x = torch.empty((batch, classes, *space), dtype=getattr(torch, dtype), device="meta")
    if channels_last:
        x = x.to(memory_format=torch.channels_last_3d)
    labels = torch.empty_like(x)
    if target != "dense":
        labels = x.new_empty((batch, *space), dtype=getattr(torch, target))
    size = number(*DEFAULT)
    act = ACTIVATIONS.index(activation)
    counts = x.new_empty((2, 1, classes, 2, size), dtype=torch.int64)
    rows = x.new_empty((2, batch, classes), dtype=torch.float64)
    out = (counts, rows, rows.new_empty(2))
    first, replicas, total = triton_launch.count_launches(
        x, labels, (act, *DEFAULT, True), ignore_index, out
    )
    table = x.new_empty((1, classes, 2, size), dtype=torch.float32)
    incoming = (table, rows[0], rows[1])
    back = triton_launch.backward_launch(
        torch.empty_like(x), incoming, x, labels, (act, *DEFAULT), ignore_index
    )
    return {"count": first, "replicas": replicas, "total": total, "backward": back}


def sample() -> Iterator[tuple[str, int, str, str, bool, int]]:
    """Yield activation, classes, dtype, target, channels-last, and compute capability.

    Softmax with every number of classes, sigmoid and hinge, whose classes do not meet, with some;
    dtypes and targets in turn.
    """
    turn = itertools.cycle(itertools.product(DTYPES, TARGETS))
    for (activation, classes), (dtype, target), capability in zip(
        itertools.product(ACTIVATIONS, CLASSES), turn, itertools.cycle((80, 90)), strict=False
    ):
        if classes not in SOME.get(activation, CLASSES):
            continue
        yield activation, classes, dtype, target, False, capability
    for place, target in enumerate(TARGETS):
        yield "softmax", 4, DTYPES[place % 2], target, False, 90
    for classes in (4, 24):
        yield "softmax", classes, "float32", "uint8", True, 90


def examine(cases: list[tuple[str, int, str, str, bool, int]]) -> dict[str, Any]:
    """Compile the kernels of cases, and then return their reports by name."""
    found = {}
    for case in cases:
        of_case = launches(*case[:-1])
        for direction in DIRECTIONS:
            name = " ".join(map(str, (*case, direction)))
            found[name] = compile_launch(of_case[direction], case[-1])
    reports = {}
    for name, compiled in found.items():
        report = compiled.report()
        report["atomics"] = len(re.findall(r"\bREDG?\.E\.ADD\.64", compiled.sass))
        report["returning_atomics"] = len(re.findall(r"\bATOMG?\.E\.ADD", compiled.sass))
        report["fused"] = len(re.findall(r"\bFFMA", compiled.sass))
        report["softmax_layouts"] = sorted(_softmax_layouts(compiled.ttgir))
        reports[name] = report
    return reports


def _softmax_layouts(ttgir: str) -> set[str]:
    """Return how the classes lie over registers, lanes and warps in a softmax's sums.

    They are the first three over classes: the maximum, and two sums of exponentials.
    """
    blocked = r"#ttg\.blocked<\{sizePerThread = \[(\d+), \d+\], threadsPerWarp = \[(\d+), \d+\], "
    blocked += r"warpsPerCTA = \[(\d+), \d+\], order = \[\d, \d\]\}>"
    layouts = {
        name: "x".join(places)
        for name, *places in re.findall(rf"^(#\w+) = {blocked}$", ttgir, re.MULTILINE)
    }
    sums = re.findall(
        r'"tt\.reduce"\(%[\w#]+\) <\{axis = 0 : i32\}>.*?\}\) : \(tensor<\d+x\d+xf32, (#\w+)>\)',
        ttgir,
        re.DOTALL,
    )
    return {layouts[name] for name in sums[:3]}


def specializations(space: tuple[int, ...], ignore_index: int) -> list[Any]:
    """Return what decides whether the launches of a call need kernels of their own."""
    found = launches("softmax", 4, "float32", "int64", ignore_index=ignore_index, space=space)
    return [specialization(launch) for launch in found.values()]


def report() -> dict[str, Any]:
    """Return the reports of the sample."""
    assert specializations((16, 16, 16), 255) == specializations((32, 48, 24), 1)
    return examine(list(dict.fromkeys(sample())))
