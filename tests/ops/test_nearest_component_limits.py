"""Where nearest_component's kernels cut, and the edges, on every machine, against all pairs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from segloss_fast.ops.distance_transform.nearest import DTYPES
from tests.machines import Machine, on, sized
from tests.ops.nearest_cases import (
    IRRATIONAL,
    LAYOUTS,
    SPACINGS,
    THICK,
    UNIT,
    Case,
    blobs,
    call,
    check,
    compare,
    key_limit,
    lay_out_labels,
    random_labels,
    run,
    sparse,
)

KEYS, PAIRS = 1709, 866  # rows of a tile that fit in 227 KiB
MANY = 2**31 - 1  # labels that no key has room for
LONG = [
    *((1,), (32,), (33,), (512,), (513,), (1100,), (3, 515), (513, 2), (2, 70, 2)),
    *((PAIRS, 1), (PAIRS + 1, 2), (KEYS + 1, 1), (KEYS + 1, 2, 1), (2, PAIRS + 1, 1)),
]
LONG_ON_DEVICE = [
    *((513,), (5000,), (3, 1100), (2, 900, 3)),
    *((PAIRS, 3), (PAIRS + 1, 3), (KEYS, 2), (KEYS + 1, 2)),
]


@sized(
    "shape",
    [(1,), (9,), (1, 1), (5, 9), (9, 1), (3, 4, 5), (4, 1, 6)],
    interpreted=[(1,), (1, 1, 1), (300,), (2, 70), (70, 2), (1, 9, 1), (9, 1, 5), (4, 5, 1)],
)
@sized("kind", SPACINGS, interpreted=[UNIT, IRRATIONAL])
def test_small_shapes(machine: Machine, shape: tuple[int, ...], kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    maps, most = machine.pick(((2, 2), 5), interpreted=((1, 1), MANY))
    for density in machine.pick((0.0, 0.1, 0.6, 1.0), interpreted=(0.05,)):
        labels = random_labels((*maps, *shape), density, most, generator)
        compare(machine, Case(labels, kind))


@on("native", "shim", "cuda")
@sized("shape", LONG, cuda=LONG_ON_DEVICE)
@pytest.mark.parametrize("largest", [5, MANY])
def test_long_lines(machine: Machine, shape: Sequence[int], largest: int) -> None:
    """Labels far apart: what looks far, divides and conquers, or has no room in shared memory."""
    compare(machine, sparse(shape, largest))


@on("native", "shim", "cuda")
def test_columns_too_long_for_ranges(machine: Machine) -> None:
    labels = torch.zeros((1, 1, 29_100, 2), dtype=torch.int64)
    labels[0, 0, ::10] = 3
    labels[0, 0, 5::10] = 2
    nearest, distance = call(machine, Case(labels))
    pattern = torch.tensor([3, 3, 3, 2, 2, 2, 2, 2, 3, 3], dtype=torch.int32)
    assert torch.equal(nearest[0, 0, :29_095].view(-1)[::2], pattern.repeat(2910)[:29_095])
    assert (nearest[0, 0, 29_095:] == 2).all()
    assert distance[0, 0, 29_090:, 1].tolist() == [0, 1, 2, 2, 1, 0, 1, 2, 3, 4]


@sized("shape", [(9,), (9, 20), (4, 9, 20)], interpreted=[(4,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("kind", SPACINGS)
def test_maps_with_few_labels_and_none(machine: Machine, shape: Sequence[int], kind: str) -> None:
    """One in the middle, one everywhere, and nothing, beside one another."""
    labels = torch.zeros((3, 2, *shape), dtype=torch.int32)
    middle = tuple(size // 2 for size in shape)
    labels[1, 1][middle] = 4
    labels[2, 0] = 6
    compare(machine, Case(labels, kind))
    compare(machine, Case(labels + 2**30 * (labels > 0), kind))


@on("reference", "native", "shim", "cuda")
@pytest.mark.parametrize("kind", [UNIT, THICK])
@sized("shape", [(12, 13), (5, 12, 13)], cuda=[(8, 20, 25)])
def test_labels_just_below_and_above_what_keys_hold(
    machine: Machine, kind: str, shape: Sequence[int]
) -> None:
    weights = SPACINGS[kind][1]
    assert weights is not None
    limit = min(key_limit(shape, weights[: len(shape)]), 2**24 - 1)
    generator = torch.Generator().manual_seed(0)
    small = random_labels((1, 2, *shape), 0.05, 9, generator)
    expected, distance = run(machine, Case(small, kind))
    for most in (limit, limit + 1, MANY):
        case = Case(torch.where(small > 0, small + most - 9, 0), kind)
        nearest, far = run(machine, case)
        check(case, nearest, far)
        assert torch.equal(torch.where(nearest > 0, nearest - (most - 9), 0), expected)
        assert torch.equal(far, distance)


@on("native", "shim", "cuda")
@pytest.mark.parametrize("kind", [UNIT, IRRATIONAL])
def test_methods_meet_in_one_map(machine: Machine, kind: str) -> None:
    """Noise for brute force beside a far label for divide and conquer, side by side in a tile."""
    generator = torch.Generator().manual_seed(0)
    labels = random_labels((1, 1, 70, 1, 40), 0.3, 50, generator).int()
    labels[..., 25:] = 0
    labels[0, 0, 66, 0, 39] = 60
    compare(machine, Case(labels, kind))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_and_layouts(machine: Machine, dtype: torch.dtype) -> None:
    size = machine.pick((3, 5, 19), interpreted=(3, 4, 5))
    labels = blobs(size, 0.15).expand(2, 2, -1, -1, -1)
    if dtype == torch.bool:
        labels = labels.clamp_max(1)
    expected, distance = run(machine, Case(labels.contiguous(), THICK))
    check(Case(labels, THICK), expected, distance)
    stored = labels.to(dtype)
    for layout in LAYOUTS if not str(dtype).startswith("torch.uint") else LAYOUTS[:1]:
        nearest, far = run(machine, Case(lay_out_labels(stored, layout), THICK))
        assert torch.equal(nearest, expected)
        assert torch.equal(far, distance)


@on("interpreted", "shim", "cuda")  # on the CPU it is an error
@pytest.mark.parametrize(
    ("dtype", "wrong"),
    [
        *((dtype, -5) for dtype in (torch.int8, torch.int32, torch.int64)),
        *((torch.int64, value) for value in (2**31, -(2**63))),
    ],
    ids=str,
)
def test_what_is_no_label_counts_as_0(machine: Machine, dtype: torch.dtype, wrong: int) -> None:
    labels = blobs(machine.pick((4, 9, 12), interpreted=(4, 5, 6)), 0.1)
    expected, distance = run(machine, Case(labels))
    nearest, far = run(machine, Case(torch.where(labels > 0, labels.long(), wrong).to(dtype)))
    assert torch.equal(nearest, expected)
    assert torch.equal(far, distance)


@pytest.mark.parametrize(
    "shape",
    [(0, 1, 4), (2, 0, 4), (1, 2, 0), (1, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0, 5)],
    ids=str,
)
def test_empty(machine: Machine, shape: Sequence[int]) -> None:
    for dtype in (torch.uint8, torch.int64):
        compare(machine, Case(torch.ones(shape, dtype=dtype)))
