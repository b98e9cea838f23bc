"""Tests of nearest_component's Triton kernels under Triton's interpreter."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from segloss_fast.ops.distance_transform import triton_launch
from segloss_fast.ops.distance_transform.nearest import DTYPES
from segloss_fast.ops.distance_transform.spacing import squares
from tests.ops.nearest_cases import (
    IRRATIONAL,
    LAYOUTS,
    SPACINGS,
    THICK,
    UNIT,
    Case,
    blobs,
    check,
    lay_out_labels,
    random_case,
    random_labels,
)

pytestmark = pytest.mark.usefixtures("new_tensors_are_nan")


def run(case: Case) -> tuple[Tensor, Tensor]:
    unit, weights = squares(case.spacing)
    nearest, distance, _ = triton_launch.nearest(case.labels, weights, unit, True)
    alone, none, _ = triton_launch.nearest(case.labels, weights, unit, False)
    assert torch.equal(nearest, alone), case
    assert none.numel() == 0
    return nearest, distance


@pytest.mark.parametrize("seed", range(4))
def test_random_labels(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(6):
        case = random_case(draw, voxels=500)
        check(case, *run(case))


@pytest.mark.parametrize(
    "shape", [(1,), (1, 1, 1), (300,), (2, 70), (70, 2), (1, 9, 1), (9, 1, 5), (4, 5, 1)], ids=str
)
@pytest.mark.parametrize("kind", [UNIT, IRRATIONAL])
def test_shapes(shape: Sequence[int], kind: str) -> None:
    labels = random_labels((1, 1, *shape), 0.05, 2**31 - 1, torch.Generator().manual_seed(0))
    check(Case(labels, kind), *run(Case(labels, kind)))


@pytest.mark.parametrize("kind", SPACINGS)
def test_maps_without_labels_and_full_ones(kind: str) -> None:
    for shape in ((4,), (3, 4), (2, 3, 4)):
        labels = torch.zeros((1, 2, *shape), dtype=torch.int32)
        labels[0, 1] = 3
        check(Case(labels, kind), *run(Case(labels, kind)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_and_layouts(dtype: torch.dtype) -> None:
    labels = blobs((3, 4, 5), 0.15).expand(2, 2, -1, -1, -1)
    if dtype == torch.bool:
        labels = labels.clamp_max(1)
    expected, distance = run(Case(labels.contiguous(), THICK))
    stored = labels.to(dtype)
    for layout in LAYOUTS if not str(dtype).startswith("torch.uint") else LAYOUTS[:1]:
        nearest, far = run(Case(lay_out_labels(stored, layout), THICK))
        assert torch.equal(nearest, expected)
        assert torch.equal(far, distance)


def test_what_is_no_label_counts_as_0() -> None:
    labels = blobs((4, 5, 6), 0.1)
    for wrong in (-5, 2**31, -(2**63)):
        case = Case(torch.where(labels > 0, labels.long(), wrong))
        for one, other in zip(run(case), run(Case(labels)), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [(0, 1, 4), (1, 0, 4, 4), (2, 1, 3, 0, 5)], ids=str)
def test_empty(shape: Sequence[int]) -> None:
    nearest, distance = run(Case(torch.ones(shape, dtype=torch.uint8)))
    assert nearest.shape == distance.shape == shape
