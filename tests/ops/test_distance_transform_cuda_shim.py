"""Runs the CUDA kernels of distance_transform on the CPU and compares with scipy."""

from __future__ import annotations

import ctypes
import math
import os
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, run_python
from tests.cuda_shim.build import COMPILER, available
from tests.ops import distance_transform_shim as shim
from tests.ops.distance_transform_cases import (
    DTYPES,
    LAYOUTS,
    SIDES,
    Case,
    ball,
    check,
    lay_out,
    random_case,
    random_values,
    seeds,
)
from tests.suite.built import NATIVE, once

LIMIT = 1709  # rows of a tile that fit in 227 KiB
ORDERS = [0, 1]

pytestmark = pytest.mark.shim


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    if not available():
        pytest.skip("no C++ compiler")
    folder = once(
        "shim-distance_transform", NATIVE, lambda f: shim.build_library(f, sanitize=False)
    )
    return shim.load(folder / shim.NAME)


@pytest.fixture(autouse=True)
def _new_tensors_are_nan(library: ctypes.CDLL) -> Iterator[None]:
    """So that a voxel that no kernel writes shows; threads in order, as the next test expects."""
    library.segloss_shim_set_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("order", ORDERS)
def test_random_masks(library: ctypes.CDLL, order: int) -> None:
    draw = random.Random(order)
    library.segloss_shim_set_seed(order)
    for _ in range(250):
        case = random_case(draw)
        check(shim.run(case), case)


@pytest.mark.parametrize(
    "shape",
    [
        *((1,), (2,), (15,), (512,), (513,), (300,), (1100,), (1536,), (40000,)),
        *((3, 512), (5, 515), (2, 1100), (3, 1100), (2, 40000), (3, 33001)),
        *((300, 3), (513, 2), (1100, 2), (1024, 1), (LIMIT, 2), (LIMIT + 1, 2), (4000, 1)),
        *((2, 300, 2), (300, 2, 3), (2, 520, 2), (LIMIT + 1, 2, 2), (2, LIMIT + 1, 2)),
    ],
    ids=str,
)
def test_long_lines(shape: Sequence[int]) -> None:
    """A few seeds, far apart: what looks far, and what divides and conquers."""
    for count, side in ((1, "inside"), (max(2, math.prod(shape) // 300), "signed")):
        case = Case(seeds(shape, count), [1.0] * len(shape), side)
        check(shim.run(case), case)


@pytest.mark.parametrize("length", [40000, 29100])
def test_columns_too_long_for_shared_memory(length: int) -> None:
    mask = seeds((length, 2), length // 10)
    case = Case(mask, [1.0, 2.0], "both")
    check(shim.run(case), case)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("shape", [(9,), (9, 20), (9, 20, 17)], ids=str)
def test_masks_with_one_side(side: str, squared: bool, shape: Sequence[int]) -> None:
    empty = torch.zeros((1, 4, *shape), dtype=torch.bool)
    empty[0, 1] = True
    empty[(0, 2, *(size // 2 for size in shape))] = True
    empty[0, 3] = ~empty[0, 2]
    case = Case(empty, [1.0] * len(shape), side, squared)
    check(shim.run(case), case)


@pytest.mark.parametrize("side", SIDES)
def test_methods_meet_in_one_mask(side: str) -> None:
    """Noise for brute force beside a far seed for divide and conquer, side by side in a tile."""
    draw = random.Random(0)
    noise = torch.rand((1, 1, 70, 3, 40), generator=torch.Generator().manual_seed(0)) < 0.5
    noise[..., 25:] = False
    noise[0, 0, 66, 1, 39] = True
    for mask in (noise, ~noise, ball((70, 3, 40), 0.2, draw).expand_as(noise)):
        case = Case(mask, [0.7, 3.0, 1.0], side)
        check(shim.run(case), case)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.uint16, torch.uint32, torch.uint64], ids=str)
def test_dtypes_and_layouts(dtype: torch.dtype) -> None:
    draw = random.Random(0)
    inside = torch.rand((2, 3, 4, 5, 19), generator=torch.Generator().manual_seed(0)) < 0.6
    values = inside.to(torch.int64).to(dtype)
    if dtype in DTYPES:
        values = random_values(inside, dtype, draw)
    for layout in LAYOUTS if dtype in DTYPES else LAYOUTS[:1]:
        case = Case(lay_out(values, layout), [1.0, 2.0, 0.5], "signed")
        result = shim.run(case)
        kept = Case(case.mask != 0 if dtype in DTYPES else inside, case.spacing, case.side)
        check(result, kept)


@pytest.mark.parametrize("width", [16, 48, 64, 512, 1024])
@pytest.mark.parametrize("offset", [0, 16, 3])
def test_bytes_loaded_sixteen_at_a_time(width: int, offset: int) -> None:
    """Aligned rows that are not neighbours in memory, and ones that are not aligned."""
    memory = torch.ones(3 * (width + 16) + offset, dtype=torch.uint8)
    rows = memory[offset:].view(3, width + 16)[:, :width]
    rows.copy_(torch.rand(rows.shape, generator=torch.Generator().manual_seed(width)) < 0.7)
    for view in (rows[None, None], rows[:, None]):
        case = Case(view, [1.0] * (view.dim() - 2), "signed")
        check(shim.run(case), case)


@pytest.mark.parametrize("spacing", [1e-30, 1e-10, 0.1, 3.0, 1e10, 1e30])
def test_spacings_of_any_magnitude(spacing: float) -> None:
    mask = torch.rand((1, 1, 5, 6, 7), generator=torch.Generator().manual_seed(0)) < 0.9
    case = Case(mask, [spacing, 2 * spacing, 0.7 * spacing], "both")
    check(shim.run(case), case)


@pytest.mark.parametrize("spacing", [1e-300, 1e300])
def test_spacings_that_float32_cannot_hold(spacing: float) -> None:
    mask = torch.tensor([[[1, 0, 1]]])
    expected = torch.tensor([[[spacing, 0, spacing]]], dtype=torch.float64).float()
    assert torch.equal(shim.run(Case(mask, [spacing], "inside")), expected)
    plane = mask[..., None].expand(1, 1, 3, 3)
    result = shim.run(Case(plane, [spacing, spacing], "inside"))
    assert torch.equal(result, expected[..., None].expand(1, 1, 3, 3))


@pytest.mark.parametrize("shape", [(0, 1, 4), (1, 0, 4, 4), (1, 2, 0), (2, 1, 3, 0, 5)], ids=str)
def test_empty(shape: Sequence[int]) -> None:
    result = shim.run(Case(torch.ones(shape), [1.0] * (len(shape) - 2), "both"))
    assert result.shape == shape
    assert result.dtype == torch.float32


def test_order_of_threads_changes_nothing(library: ctypes.CDLL) -> None:
    draw = random.Random(5)
    for _ in range(10):
        case = random_case(draw, voxels=8000)
        library.segloss_shim_set_seed(0)
        first = shim.run(case)
        library.segloss_shim_set_seed(draw.randrange(1, 1000))
        assert torch.equal(shim.run(case), first), case


def test_what_must_be_refused() -> None:
    shim.run_malformed()


def test_sanitizers(tmp_path: Path) -> None:
    if shutil.which(COMPILER) is None:
        pytest.skip("no C++ compiler")
    preload = []
    for name in ("libasan.so", "libubsan.so", "libstdc++.so.6"):
        command = [COMPILER, f"-print-file-name={name}"]
        path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        if not os.path.isabs(path):
            pytest.skip(f"{COMPILER} has no {name}")
        preload.append(path)
    library = shim.build_library(tmp_path, sanitize=True)
    # Leaks: Python's own, at exit.
    environ = {"LD_PRELOAD": " ".join(preload), "ASAN_OPTIONS": "detect_leaks=0"}
    command = ["-m", "tests.ops.distance_transform_shim", str(library), "40"]
    done = run_python(*command, folder=ROOT, PYTHONPATH=str(ROOT), **environ)
    assert done.returncode == 0, done.stdout
    assert "no finding" in done.stdout, done.stdout
