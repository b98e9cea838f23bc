"""Runs the CUDA kernels of nearest_component on the CPU and compares with all pairs of voxels."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Sequence

import pytest
import torch

from segloss_fast.ops.distance_transform.nearest import DTYPES
from tests import machines
from tests.ops import distance_transform_shim as shim
from tests.ops.nearest_cases import (
    IRRATIONAL,
    LAYOUTS,
    SPACINGS,
    THICK,
    UNIT,
    Case,
    blobs,
    check,
    key_limit,
    lay_out_labels,
    random_case,
    random_labels,
    sparse,
)

KEYS, PAIRS = 1709, 866  # rows of a tile that fit in 227 KiB
MANY = 2**31 - 1  # labels that no key has room for

pytestmark = pytest.mark.shim


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return machines.shim("distance_transform")


@pytest.fixture(autouse=True)
def _threads_in_order(library: ctypes.CDLL, new_tensors_are_nan: None) -> None:
    library.segloss_shim_set_seed(0)


@pytest.mark.parametrize("order", [0, 1])
def test_random_labels(library: ctypes.CDLL, order: int) -> None:
    draw = random.Random(order)
    library.segloss_shim_set_seed(order)
    for _ in range(25):
        case = random_case(draw, voxels=800)
        check(case, *shim.run_nearest(case))


@pytest.mark.parametrize(
    "shape",
    [
        *((1,), (32,), (33,), (512,), (513,), (1100,), (3, 515), (513, 2), (2, 70, 2)),
        *((PAIRS, 1), (PAIRS + 1, 2), (KEYS + 1, 1), (KEYS + 1, 2, 1), (2, PAIRS + 1, 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("largest", [5, MANY])
def test_long_lines(shape: Sequence[int], largest: int) -> None:
    """Labels far apart: what looks far, divides and conquers, or has no room in shared memory."""
    case = sparse(shape, largest)
    check(case, *shim.run_nearest(case))


def test_columns_too_long_for_ranges() -> None:
    labels = torch.zeros((1, 1, 29_100, 2), dtype=torch.int64)
    labels[0, 0, ::10] = 3
    labels[0, 0, 5::10] = 2
    nearest, distance = shim.call_nearest(Case(labels))
    pattern = torch.tensor([3, 3, 3, 2, 2, 2, 2, 2, 3, 3], dtype=torch.int32)
    assert torch.equal(nearest[0, 0, :29_095].view(-1)[::2], pattern.repeat(2910)[:29_095])
    assert (nearest[0, 0, 29_095:] == 2).all()
    assert distance[0, 0, 29_090:, 1].tolist() == [0, 1, 2, 2, 1, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", SPACINGS)
@pytest.mark.parametrize("shape", [(9,), (9, 20), (4, 9, 17)], ids=str)
def test_few_labels_and_none(kind: str, shape: Sequence[int]) -> None:
    labels = torch.zeros((1, 3, *shape), dtype=torch.int32)
    labels[(0, 1, *(size // 2 for size in shape))] = 7
    labels[0, 2] = 4
    check(Case(labels, kind), *shim.run_nearest(Case(labels, kind)))


@pytest.mark.parametrize("kind", [UNIT, THICK])
def test_labels_just_below_and_above_what_keys_hold(kind: str) -> None:
    weights = SPACINGS[kind][1]
    assert weights is not None
    shape = (5, 12, 13)
    small = blobs(shape, 0.1)
    expected, distance = shim.run_nearest(Case(small, kind))
    most = int(small.max())
    for limit in (key_limit(shape, weights), key_limit(shape, weights) + 1, MANY):
        labels = torch.where(small > 0, small + (limit - most), 0)
        nearest, far = shim.run_nearest(Case(labels, kind))
        assert torch.equal(nearest - (limit - most), expected)
        assert torch.equal(far, distance)


@pytest.mark.parametrize("kind", [UNIT, IRRATIONAL])
def test_methods_meet_in_one_map(kind: str) -> None:
    """Noise for brute force beside a far label for divide and conquer, side by side in a tile."""
    generator = torch.Generator().manual_seed(0)
    labels = random_labels((1, 1, 70, 1, 40), 0.3, 50, generator).int()
    labels[..., 25:] = 0
    labels[0, 0, 66, 0, 39] = 60
    check(Case(labels, kind), *shim.run_nearest(Case(labels, kind)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_and_layouts(dtype: torch.dtype) -> None:
    labels = blobs((3, 5, 19), 0.15).expand(2, 2, -1, -1, -1)
    if dtype == torch.bool:
        labels = labels.clamp_max(1)
    expected, distance = shim.run_nearest(Case(labels.contiguous(), THICK))
    stored = labels.to(dtype)
    for layout in LAYOUTS if not str(dtype).startswith("torch.uint") else LAYOUTS[:1]:
        nearest, far = shim.run_nearest(Case(lay_out_labels(stored, layout), THICK))
        assert torch.equal(nearest, expected)
        assert torch.equal(far, distance)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64], ids=str)
def test_what_is_no_label_counts_as_0(dtype: torch.dtype) -> None:
    labels = blobs((4, 9, 12), 0.1)
    expected, distance = shim.run_nearest(Case(labels))
    wrong = torch.where(labels > 0, labels, -5).to(dtype)
    if dtype == torch.int64:
        wrong[wrong < 0] = 2**31
    nearest, far = shim.run_nearest(Case(wrong))
    assert torch.equal(nearest, expected)
    assert torch.equal(far, distance)


@pytest.mark.parametrize("shape", [(0, 1, 4), (1, 0, 4, 4), (1, 2, 0), (2, 1, 3, 0, 5)], ids=str)
def test_empty(shape: Sequence[int]) -> None:
    nearest, distance = shim.run_nearest(Case(torch.ones(shape, dtype=torch.uint8)))
    assert nearest.shape == distance.shape == shape


def test_order_of_threads_changes_nothing(library: ctypes.CDLL) -> None:
    draw = random.Random(5)
    for _ in range(5):
        case = random_case(draw, voxels=2000)
        library.segloss_shim_set_seed(0)
        first = shim.run_nearest(case)
        library.segloss_shim_set_seed(draw.randrange(1, 1000))
        for one, other in zip(shim.run_nearest(case), first, strict=True):
            assert torch.equal(one, other), case


def test_what_must_be_refused() -> None:
    shim.run_malformed_nearest()
