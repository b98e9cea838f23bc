"""Calls the native connected_components in every way that might make it read where it must not.

What lies beside the labels in memory is foreground, so that reading it shows.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import torch

from segloss_fast import connected_components
from tests.sanitizers.driver import attempt, every_instruction_set, share
from tests.sanitizers.fuzz_distance_transform import DENSITIES, DTYPES, LAYOUTS, SHAPES, lay_out

MORE_SHAPES = (
    *((1, 1, 63), (1, 1, 64), (1, 1, 65), (2, 1, 127), (1, 1, 9, 128), (1, 1, 5, 3, 130)),
)
INTEGERS = tuple(dtype for dtype in DTYPES if not dtype.is_floating_point)

GOOD: dict[str, Any] = {
    "labels": torch.ones(2, 1, 4, 5, dtype=torch.int64),
    "differing": 2,
    "by_value": False,
    "ignore_index": None,
    "order": [0, 1],
}

draw = random.Random(0)


def run_valid(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    mask = torch.rand(shape) < draw.choice(DENSITIES)
    names = ("faces", "full") + (("edges",) if len(shape) == 5 else ())
    for connectivity, ignored in itertools.product(names, (None, draw.choice((0, 1, -1, 2**40)))):
        labels = lay_out(mask.to(dtype), layout)
        found = connected_components(
            labels, connectivity=connectivity, ignore_index=ignored, impl="native"
        )
        expected = connected_components(
            labels.contiguous(), connectivity=connectivity, ignore_index=ignored, impl="native"
        )
        assert torch.equal(found.labels, expected.labels), f"{shape} {dtype} {layout}"
        assert torch.equal(found.count, expected.count), f"{shape} {dtype} {layout}"
        if mask.numel() <= 2000:
            expected = connected_components(
                labels, connectivity=connectivity, ignore_index=ignored, impl="reference"
            )
            assert torch.equal(found.labels, expected.labels), f"{shape} {dtype} {layout}"


def run_by_value(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    shape = (shape[0], 1, *shape[2:])
    values = torch.randint(0, draw.choice((2, 3, 9)), shape)
    if values.numel() > 0 and draw.random() < 0.5:
        values = values[..., :1].expand(shape)
    labels = lay_out(values.to(dtype), layout)
    ignored = draw.choice((None, 1, 300))
    found = connected_components(labels, by_value=True, ignore_index=ignored, impl="native")
    impl = "reference" if values.numel() <= 2000 else "native"
    expected = connected_components(
        labels.contiguous(), by_value=True, ignore_index=ignored, impl=impl
    )
    assert found.value is not None
    assert expected.value is not None
    assert torch.equal(found.labels, expected.labels), f"{shape} {dtype} {layout}"
    assert torch.equal(found.value, expected.value), f"{shape} {dtype} {layout}"


def malformed() -> list[dict[str, Any]]:
    """Return changes of a call that nobody makes through Python, each of which must be refused."""
    return [
        {"labels": torch.zeros(3)},
        {"labels": torch.zeros(2, 3)},
        {"labels": torch.zeros(2, 3, 1, 1, 1, 5)},
        {"labels": torch.zeros(2, 1, 4, 5, dtype=torch.complex64)},
        {"labels": torch.zeros(2, 2, 4, 5, dtype=torch.int64), "by_value": True},
        {"labels": torch.zeros(2, 1, 4, 5), "by_value": True},
        {"labels": torch.zeros(()).expand(1, 1, 2**16, 2**16)},
        {"labels": torch.zeros(()).expand(1, 2**20, 2**20, 2**20)},
        *({"differing": value} for value in (-1, 0, 3, 2**40)),
        *({"order": value} for value in ([], [0], [0, 0], [0, 2], [-1, 0], [0, 1, 2])),
    ]


def run_malformed() -> None:
    """Calls that Python's checks would refuse, made directly: an error, or a harmless answer."""
    for change in ({}, {"order": [1, 0]}, *malformed()):
        attempt("_connected_components", *{**GOOD, **change}.values())


def run_all() -> None:
    shapes = (*SHAPES, *MORE_SHAPES)
    for case in share(itertools.product(shapes, DTYPES, LAYOUTS))[::3]:
        run_valid(*case)
    for case in share(itertools.product(shapes, INTEGERS, LAYOUTS))[::3]:
        run_by_value(*case)
    for shape in ((1, 1, 500, 1100), (1, 1, 140, 64, 66)):  # cut into slabs
        run_valid(shape, torch.uint8, draw.choice(LAYOUTS))
        run_by_value(shape, torch.int16, draw.choice(LAYOUTS))
    run_malformed()


if __name__ == "__main__":
    every_instruction_set(run_all)
