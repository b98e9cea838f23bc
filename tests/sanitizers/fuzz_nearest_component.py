"""Calls the native nearest_component in every way that might make it read where it must not.

As fuzz_distance_transform.py: what lies inside an allocation but outside the view that is passed is
labelled 1, and a result that shows that label is wrong, because labels begin at 2.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import torch
from torch import Tensor

from tests.sanitizers.driver import attempt, every_instruction_set, share

OPERATOR = "_distance_transform_nearest"
DTYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
LAYOUTS = ("contiguous", "channels_last", "sliced", "strided", "transposed", "expanded")
# One voxel, less than a vector, primes, one more than a vector or a group of lines, planes.
SHAPES = (
    *((1, 1, 1), (2, 3, 7), (1, 1, 61), (1, 2, 513), (0, 1, 5), (2, 2, 0)),
    *((2, 1, 1, 1), (2, 1, 7, 11), (1, 1, 64, 65), (1, 1, 97, 101), (1, 1, 600, 3)),
    *((1, 1, 1, 1, 1), (2, 2, 2, 3, 5), (1, 1, 31, 1, 17), (1, 2, 13, 17, 23), (1, 1, 9, 33, 65)),
    *((3, 1, 11, 12, 2), (1, 1, 40, 5, 1), (2, 1, 8, 16, 16)),
)
DENSITIES = (0.0, 1.0, 0.3, 0.02, 0.002)
WEIGHTS = (1.0, 9.0, 2.0**-100, 0.37, 2.0**51)

draw = random.Random(0)


def lay_out(labels: Tensor, layout: str) -> Tensor:
    """Return the labels (those of the first item, if expanded) with other strides."""
    if layout == "expanded":
        return labels[:1].expand(labels.shape)
    if layout == "channels_last":
        shape = labels.shape[0], *labels.shape[2:], labels.shape[1]
        return labels.new_ones(shape).movedim(-1, 1).copy_(labels)
    if layout == "transposed":
        reverse = list(reversed(range(labels.dim())))
        return labels.new_ones(labels.shape[::-1]).permute(reverse).copy_(labels)
    if layout == "sliced":
        base = labels.new_ones([size + 3 for size in labels.shape])
        return base[tuple(slice(1, size + 1) for size in labels.shape)].copy_(labels)
    if layout == "strided":
        base = labels.new_ones((*labels.shape[:-1], 2 * labels.shape[-1]))
        return base[..., 1::2].copy_(labels)
    return labels.clone()


def run_valid(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    most = draw.choice([n for n in (2, 100, 30_000, 2**31 - 1) if n <= torch.iinfo(dtype).max])
    values = torch.randint(2, most + 1, shape) * (torch.rand(shape) < draw.choice(DENSITIES))
    labels = lay_out(values.to(dtype), layout)
    weights = [draw.choice(WEIGHTS) for _ in shape[2:]]
    if draw.random() < 0.6:
        weights = [1.0] * len(weights)
    distance = draw.random() < 0.5
    operator = getattr(torch.ops.segloss_fast, OPERATOR)
    found = operator(labels, weights, 1.0, distance)
    expected = operator(labels.contiguous(), weights, 1.0, distance)
    case = f"{shape} {dtype} {layout} {weights} {most}"
    assert not (found[0] == 1).any(), case
    for one, other in zip(found, expected, strict=True):
        assert not one.isnan().any(), case
        assert torch.equal(one, other), case


def run_malformed() -> None:
    """Calls that Python's checks would refuse, made directly: an error, or a harmless answer."""
    good: dict[str, Any] = {
        "labels": torch.randint(0, 3, (2, 3, 5, 7)),
        "weights": [1.0, 2.0],
        "unit": 1.0,
        "distance": True,
    }
    changes: list[dict[str, Any]] = [
        {},
        {"labels": torch.zeros(3, dtype=torch.int32)},
        {"labels": torch.zeros(1, 1, dtype=torch.int32)},
        {"labels": torch.zeros(1, 1, 1, 1, 1, 1, dtype=torch.int32)},
        {"labels": torch.zeros(1, 1, 2, 2)},
        {"labels": torch.full((1, 2, 9, 40), -1)},  # no labels
        {"labels": torch.randint(-(2**62), 2**62, (1, 2, 9, 40)), "weights": [1.0, 0.3]},
        *({"weights": [value, 1.0]} for value in (0.0, -1.0, 1e300, 1e-300, torch.inf, torch.nan)),
        {"weights": []},
        {"weights": [1.0]},
        {"weights": [1.0] * 9},
        *({"unit": value} for value in (0.0, -1.0, 1e300, torch.inf, torch.nan)),
    ]
    for change in changes:
        attempt(OPERATOR, *{**good, **change}.values())


def run_all() -> None:
    for case in share(itertools.product(SHAPES, DTYPES, LAYOUTS)):
        run_valid(*case)
    run_malformed()
    # Large enough for planes of their own and for huge pages, and lines longer than a group's.
    operator = getattr(torch.ops.segloss_fast, OPERATOR)
    for shape in [(1, 1, 33, 130, 150), (1, 1, 3000, 70), (1, 1, 1500, 20)]:
        for weight, most in ((1.0, 50), (0.3, 50), (1.0, 2**31 - 1)):
            labels = torch.randint(1, most + 1, shape) * (torch.rand(shape) < 0.003)
            operator(labels, [weight] * len(shape[2:]), 1.0, True)


if __name__ == "__main__":
    every_instruction_set(run_all)
