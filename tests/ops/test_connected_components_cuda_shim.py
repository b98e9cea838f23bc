"""Runs the CUDA kernels of connected_components on the CPU and compares with scipy."""

from __future__ import annotations

import ctypes
import random

import pytest
import torch

from tests import machines
from tests.ops import connected_components_shim as shim
from tests.ops.connected_components_cases import (
    WIDTHS,
    Case,
    check,
    connectivities,
    random_case,
    random_labels,
    small_masks,
    worst_cases,
)
from tests.ops.distance_transform_cases import DTYPES, LAYOUTS, lay_out

pytestmark = pytest.mark.shim


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return machines.shim("connected_components")


@pytest.fixture(autouse=True)
def _threads_in_order(library: ctypes.CDLL, new_tensors_are_nan: None) -> None:
    library.segloss_shim_set_seed(0)


@pytest.mark.parametrize("order", [0, 1])
def test_random_problems(library: ctypes.CDLL, order: int) -> None:
    draw = random.Random(order)
    for number in range(80):
        library.segloss_shim_set_seed(order * number)
        shim.compare(random_case(draw))


@pytest.mark.parametrize("size", [(9,), (3, 3), (2, 2, 2)], ids=str)
def test_all_small_masks(size: tuple[int, ...]) -> None:
    for connectivity in connectivities(len(size)):
        shim.compare(Case(small_masks(*size)[::3], connectivity))


@pytest.mark.parametrize("width", WIDTHS)
def test_widths(width: int) -> None:
    draw = random.Random(width)
    for space in ((width,), (5, width), (3, 4, width)):
        for connectivity in connectivities(len(space)):
            labels = random_labels((2, 2, *space), torch.uint8, draw, by_value=False)
            shim.compare(Case(labels, connectivity))
            labels = random_labels((2, 1, *space), torch.int16, draw, by_value=True)
            shim.compare(Case(labels, connectivity, by_value=True, ignore_index=2))


def test_worst_cases(library: ctypes.CDLL) -> None:
    for number, mask in enumerate(worst_cases()):
        library.segloss_shim_set_seed(number % 3)
        for connectivity in connectivities(mask.dim() - 2):
            shim.compare(Case(mask, connectivity))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_and_layouts(dtype: torch.dtype) -> None:
    draw = random.Random(0)
    for layout in LAYOUTS:
        labels = random_labels((2, 3, 3, 5, 40), dtype, draw, by_value=False)
        for ignored in (None, 1, 2**40):
            shim.compare(Case(lay_out(labels, layout), "full", ignore_index=ignored))
        if not dtype.is_floating_point:
            labels = random_labels((2, 1, 3, 5, 40), dtype, draw, by_value=True)
            shim.compare(Case(lay_out(labels, layout), "edges", True, ignore_index=1))


def test_more_roots_than_a_block_scans() -> None:
    """A mask of more blocks than the scan has threads."""
    mask = torch.zeros(1, 2, 4500, 2, dtype=torch.bool)
    mask[:, 0, ::2] = True
    mask[:, 1, 5::9] = True
    shim.compare(Case(mask, "full"))


def test_order_of_threads_changes_nothing(library: ctypes.CDLL) -> None:
    draw = random.Random(5)
    for _ in range(10):
        case = random_case(draw)
        library.segloss_shim_set_seed(0)
        first = shim.run(case)
        library.segloss_shim_set_seed(draw.randrange(1, 1000))
        for one, other in zip(first, shim.run(case), strict=True):
            assert torch.equal(one, other), case


def test_values_that_int32_does_not_hold() -> None:
    operator = torch.ops.segloss_shim_connected_components._connected_components
    for value, dtype, wide in (
        *((2**31, torch.int64, 1), (-(2**31) - 1, torch.int64, 1), (2**31 - 1, torch.int64, 0)),
        *((-(2**31), torch.int64, 0), (-1, torch.int32, 0), (2**62, torch.int64, 1)),
    ):
        labels = torch.zeros(1, 1, 40, dtype=dtype)
        labels[0, 0, 35] = value
        assert operator(labels, 1, True, None, [0])[3].item() == wide
        assert operator(labels, 1, True, value, [0])[3].item() == 0
    unsigned = torch.full((1, 1, 40), -1, dtype=torch.int32).view(torch.uint32)
    assert operator(unsigned, 1, True, None, [0])[3].item() == 1


@pytest.mark.parametrize("shape", [(0, 1, 4), (2, 1, 0, 5), (2, 0, 3)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    case = Case(torch.zeros(shape, dtype=torch.int64), "full", by_value=shape[1] == 1)
    check(shim.run(case), case)


def test_what_must_be_refused() -> None:
    shim.run_malformed()
