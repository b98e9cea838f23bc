"""Calls the native distance_transform in every way that might make it read where it must not.

The sanitizers watch the edges of allocations. What lies inside an allocation but outside the view
that is passed has the opposite value of what a correct result needs, so that reading it shows.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import torch
from torch import Tensor

from segloss_fast import distance_transform
from segloss_fast.ops.distance_transform import SIDES
from tests.sanitizers.driver import attempt, every_instruction_set, share

DTYPES = (
    *(torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
)
LAYOUTS = ("contiguous", "channels_last", "sliced", "strided", "transposed", "expanded")
# One voxel, less than a vector, primes, one more than a vector or a group of lines, planes.
SHAPES = (
    *((1, 1, 1), (2, 3, 7), (1, 1, 61), (1, 2, 513), (0, 1, 5), (2, 2, 0)),
    *((2, 1, 1, 1), (2, 1, 7, 11), (1, 1, 64, 65), (1, 1, 97, 101), (1, 1, 600, 3)),
    *((1, 1, 1, 1, 1), (2, 2, 2, 3, 5), (1, 1, 31, 1, 17), (1, 2, 13, 17, 23), (1, 1, 9, 33, 65)),
    *((3, 1, 11, 12, 2), (1, 1, 40, 5, 1), (2, 1, 8, 16, 16)),
)
DENSITIES = (0.0, 1.0, 0.5, 0.02, 0.98)

draw = random.Random(0)


def lay_out(mask: Tensor, layout: str) -> Tensor:
    """Return the mask (that of the first item, if expanded) with other strides."""
    if layout == "expanded":
        return mask[:1].expand(mask.shape)
    if layout == "channels_last":
        view = mask.new_empty(mask.shape[0], *mask.shape[2:], mask.shape[1]).movedim(-1, 1)
    elif layout == "transposed":
        view = mask.new_empty(mask.shape[::-1]).permute(*reversed(range(mask.dim())))
    elif layout == "sliced":
        base = (mask.new_ones if draw.random() < 0.5 else mask.new_zeros)(
            [size + 3 for size in mask.shape]
        )
        view = base[tuple(slice(1, size + 1) for size in mask.shape)]
    elif layout == "strided":
        view = mask.new_ones((*mask.shape[:-1], 2 * mask.shape[-1]))[..., 1::2]
    else:
        return mask.clone()
    return view.copy_(mask)


def run_valid(shape: tuple[int, ...], dtype: torch.dtype, layout: str) -> None:
    mask = lay_out((torch.rand(shape) < draw.choice(DENSITIES)).to(dtype), layout)
    spacing = [draw.choice((1.0, 0.3, 3.0, 1e-20, 1e20)) for _ in shape[2:]]
    if draw.random() < 0.6:
        spacing = [1.0] * len(spacing)
    side, squared = draw.randrange(len(SIDES)), draw.random() < 0.3
    # The operator itself: distance_transform gives it a transposed mask with its axes in the order
    # of memory, where squares are added in another order.
    operator = torch.ops.segloss_fast._distance_transform
    found = operator(mask, spacing, side, squared)
    expected = operator(mask.contiguous(), spacing, side, squared)
    case = f"{shape} {dtype} {layout} {spacing} {SIDES[side]} {squared}"
    assert not found.isnan().any(), case
    assert torch.equal(found, expected), case
    total = torch.ones(shape)
    torch.ops.segloss_fast._distance_transform_add(total, mask, spacing, side, squared)
    bounded = operator(mask, spacing, side, squared, True)
    assert bounded.isfinite().all(), case
    assert torch.equal(total, 1 + bounded), case


def run_malformed() -> None:
    """Calls that Python's checks would refuse, made directly: an error, or a harmless answer."""
    good: dict[str, Any] = {
        "mask": torch.rand(2, 3, 5, 7) < 0.5,
        "spacing": [1.0, 2.0],
        "side": 0,
        "squared": False,
    }
    changes: list[dict[str, Any]] = [
        {},
        {"mask": torch.zeros(3)},
        {"mask": torch.zeros(1, 1)},
        {"mask": torch.zeros(1, 1, 1, 1, 1, 1)},
        {"mask": torch.zeros(1, 1, 2, 2, dtype=torch.complex64)},
        {"mask": torch.zeros(1, 1, 2, 2).to(torch.float8_e5m2)},
        *({"spacing": [value, 1.0]} for value in (0.0, -1.0, 1e300, 1e-300, torch.inf, torch.nan)),
        {"spacing": []},
        {"spacing": [1.0]},
        {"spacing": [1.0] * 9},
        *({"side": value} for value in (-1, 4, 2**40)),
    ]
    for change in changes:
        attempt("_distance_transform", *{**good, **change}.values())
        attempt("_distance_transform_add", torch.zeros(2, 3, 5, 7), *{**good, **change}.values())
    for total in (torch.zeros(2, 3, 35), torch.zeros(2, 3, 5, 7, dtype=torch.float64)):
        attempt("_distance_transform_add", total, *good.values())


def run_all() -> None:
    for case in share(itertools.product(SHAPES, DTYPES, LAYOUTS)):
        run_valid(*case)
    run_malformed()
    # Large enough for planes of their own and for huge pages, and lines longer than a group's.
    # And runs that a byte does not count; planes too large for the cache.
    large = [(1, 1, 33, 130, 150), (1, 1, 3000, 70), (1, 1, 1500, 20), (1, 1, 300, 3, 17)]
    for shape in [*large, (1, 1, 2, 700, 800)]:
        for side in SIDES:
            distance_transform(torch.rand(shape) < 0.01, side=side, impl="native")


if __name__ == "__main__":
    every_instruction_set(run_all)
