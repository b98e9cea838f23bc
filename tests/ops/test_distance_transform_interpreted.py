"""Tests of distance_transform's Triton kernels under Triton's interpreter."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from segloss_fast.ops.distance_transform import triton_launch
from tests.ops.distance_transform_cases import (
    DTYPES,
    LAYOUTS,
    SIDES,
    Case,
    check,
    lay_out,
    random_case,
    random_values,
    seeds,
)

pytestmark = pytest.mark.usefixtures("new_tensors_are_nan")


def run(case: Case) -> Tensor:
    return triton_launch.forward(case.mask, case.spacing, case.side, case.squared)


@pytest.mark.parametrize("seed", range(4))
def test_random_masks(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(10):
        case = random_case(draw, voxels=1500)
        check(run(case), case)


@pytest.mark.parametrize(
    "shape", [(1,), (1, 1, 1), (300,), (2, 70), (70, 2), (1, 9, 1), (9, 1, 5), (4, 5, 1)], ids=str
)
@pytest.mark.parametrize("side", SIDES)
def test_shapes(shape: Sequence[int], side: str) -> None:
    case = Case(seeds(shape, 1), [1.0] * len(shape), side, squared=True)
    check(run(case), case)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("fill", [0, 1])
def test_masks_with_one_side(side: str, fill: int) -> None:
    for shape in ((4,), (3, 4), (2, 3, 4)):
        case = Case(torch.full((1, 2, *shape), fill), [1.0] * len(shape), side)
        check(run(case), case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_and_layouts(dtype: torch.dtype) -> None:
    draw = random.Random(0)
    inside = torch.rand((2, 2, 3, 4, 5), generator=torch.Generator().manual_seed(0)) < 0.6
    values = random_values(inside, dtype, draw)
    for layout in LAYOUTS:
        case = Case(lay_out(values, layout), [1.0, 2.0, 0.5], "signed")
        check(run(case), case)


@pytest.mark.parametrize("spacing", [1e-30, 0.1, 1e30])
def test_spacings_of_any_magnitude(spacing: float) -> None:
    mask = torch.rand((1, 1, 5, 6, 7), generator=torch.Generator().manual_seed(0)) < 0.9
    case = Case(mask, [spacing, 2 * spacing, 0.7 * spacing], "both")
    check(run(case), case)


@pytest.mark.parametrize("shape", [(0, 1, 4), (1, 0, 4, 4), (2, 1, 3, 0, 5)], ids=str)
def test_empty(shape: Sequence[int]) -> None:
    result = run(Case(torch.ones(shape), [1.0] * (len(shape) - 2), "both"))
    assert result.shape == shape


def test_sides_by_number() -> None:
    mask = seeds((5, 6), 2)
    for number, side in enumerate(SIDES):
        found = triton_launch.forward(mask, [1.0, 1.0], number, False)
        assert torch.equal(found, run(Case(mask, [1.0, 1.0], side)))
