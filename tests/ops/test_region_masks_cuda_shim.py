"""Runs the CUDA kernels of region_masks on the CPU and compares with the definition."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from segloss_fast._check import FLOATING
from segloss_fast.ops.region_masks.reference import MODES
from tests.conftest import ROOT, run_python
from tests.cuda_shim.build import available
from tests.ops import region_masks_shim as shim
from tests.ops.distance_transform_cases import LAYOUTS, lay_out
from tests.ops.region_masks_cases import (
    CLASSES,
    DTYPES,
    Case,
    check,
    compare,
    far_apart,
    near_one_half,
    not_finite,
    random_case,
    random_labels,
    random_values,
)
from tests.sanitizers.test_sanitizers import runtime as runtime
from tests.suite.built import NATIVE, once

pytestmark = pytest.mark.shim

SPACES = [(1,), (4, 5), (3, 4, 5), (2, 8, 16), (1023,), (1024,), (1025,), (1028,), (2, 1026)]


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    if not available():
        pytest.skip("no C++ compiler")
    folder = once("shim-region_masks", NATIVE, lambda f: shim.build_library(f, sanitize=False))
    return shim.load(folder / shim.NAME)


@pytest.fixture(autouse=True)
def _new_tensors_are_true(library: ctypes.CDLL) -> Iterator[None]:
    """So that a voxel that no kernel writes shows."""
    library.segloss_shim_set_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("order", [0, 1])
def test_random_problems(library: ctypes.CDLL, order: int) -> None:
    draw = random.Random(order)
    library.segloss_shim_set_seed(order)
    for _ in range(150):
        compare(shim.run, random_case(draw))


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_sizes(mode: str, space: Sequence[int]) -> None:
    draw = random.Random(0)
    labels = random_labels((2, *space), 3, torch.uint8, draw)
    values = random_values((2, 3, *space), torch.float32, draw, strange=False)
    for first in (0, 2, 9):
        if mode == "labels":
            compare(shim.run, Case(labels, None, 3, mode, 1, first))
            continue
        for beside, ignored in ((None, None), (labels, None), (labels, 1)):
            compare(shim.run, Case(values, beside, 3, mode, ignored, first))


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_softmax_of_any_number_of_classes(dtype: torch.dtype, classes: int) -> None:
    draw = random.Random(classes)
    for space in ((5, 7), (8, 8)):
        for strange in (False, True):
            values = random_values((2, classes, *space), dtype, draw, strange=strange)
            compare(shim.run, Case(values, None, classes, "softmax"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes_and_layouts(dtype: torch.dtype, layout: str) -> None:
    draw = random.Random(0)
    labels = lay_out(random_labels((2, 3, 4, 8), 5, dtype, draw), layout)
    values = lay_out(random_values((2, 5, 3, 4, 8), dtype, draw, strange=True), layout)
    logits = random_values((2, 5, 3, 4, 8), torch.float32, draw, strange=False)
    for ignored in (None, 1, -1, 2**40):
        compare(shim.run, Case(labels, None, 5, "labels", ignored))
        compare(shim.run, Case(logits, labels, 5, "softmax", ignored))
        compare(shim.run, Case(values, labels, 5, "values", ignored))
        if dtype in FLOATING:
            compare(shim.run, Case(lay_out(logits.to(dtype), layout), labels, 5, "softmax"))
            compare(shim.run, Case(values, labels, 5, "sigmoid", ignored))


@pytest.mark.parametrize("offset", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_rows_that_are_not_aligned(dtype: torch.dtype, offset: int) -> None:
    """Where vectors can be loaded, and where they cannot: UBSan and a GPU refuse those."""
    draw = random.Random(0)
    for values_at, labels_at in ((offset, 0), (0, offset)):
        memory = torch.empty(2 * 3 * 64 + values_at, dtype=dtype)
        values = memory[values_at:].view(2, 3, 64)
        values.copy_(random_values(values.shape, dtype, draw, strange=False))
        near = torch.empty(2 * 64 + labels_at, dtype=torch.int16)
        labels = near[labels_at:].view(2, 64).copy_(random_labels((2, 64), 3, torch.int16, draw))
        compare(shim.run, Case(values, labels, 3, "softmax", 1))
        compare(shim.run, Case(labels, None, 3, "labels", 1))
    wide = random_values((2, 3, 64 + offset), dtype, draw, strange=False)
    compare(shim.run, Case(wide[..., :64], None, 3, "softmax"))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_infinity_and_nan(dtype: torch.dtype) -> None:
    case = not_finite(dtype)
    compare(shim.run, case)
    for mode in ("sigmoid", "values"):
        compare(shim.run, Case(case.values, None, 3, mode))
    one = case.values.flatten()[None, None]
    found = shim.run(Case(one, None, 1, "softmax"))
    assert torch.equal(found, one.isfinite())


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_next_to_one_half(dtype: torch.dtype) -> None:
    compare(shim.run, near_one_half(dtype))


@pytest.mark.parametrize("mode", ["softmax", "sigmoid", "values", "labels"])
def test_offsets_past_2_to_the_31(mode: str) -> None:
    compare(shim.run, far_apart(mode, torch.uint8 if mode == "labels" else torch.float16))


@pytest.mark.parametrize("mode", ["softmax", "labels"])
@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0, 5)], ids=str)
def test_empty(mode: str, shape: tuple[int, ...]) -> None:
    size = shape[:1] + shape[2:] if mode == "labels" else shape
    assert shim.run(Case(torch.zeros(size), None, 3, mode)).shape == shape


def test_order_of_threads_changes_nothing(library: ctypes.CDLL) -> None:
    draw = random.Random(5)
    for _ in range(10):
        case = random_case(draw)
        library.segloss_shim_set_seed(0)
        first = shim.run(case)
        library.segloss_shim_set_seed(draw.randrange(1, 1000))
        assert torch.equal(shim.run(case), first), case


def test_what_must_be_refused() -> None:
    shim.run_malformed()


def test_each_value_is_read_once(tmp_path: Path) -> None:
    path = shim.build_traffic(tmp_path)
    torch.ops.load_library(str(path))
    loaded = ctypes.c_ulonglong.in_dll(ctypes.CDLL(str(path)), "segloss_loaded")
    draw = random.Random(0)
    for mode, dtype in ((mode, dtype) for mode in MODES for dtype in FLOATING):
        for classes in (1, 2, 5, 14, 105):
            labels = random_labels((2, 8, 40), classes, torch.int32, draw)
            values = random_values((2, classes, 8, 40), dtype, draw, strange=False)
            case = Case(values, labels, classes, mode, 1)
            bytes_read = values.numel() * dtype.itemsize + labels.numel() * 4
            if mode == "labels":
                case = Case(labels, None, classes, mode, 1)
                bytes_read = labels.numel() * 4
            loaded.value = 0
            check(torch.ops.segloss_shim_traffic._region_masks(*case.arguments), case)
            assert loaded.value == bytes_read, case


@pytest.mark.sanitizers
def test_under_sanitizers(tmp_path: Path, runtime: dict[str, str]) -> None:
    library = shim.build_library(tmp_path, sanitize=True)
    arguments = ("-m", "tests.ops.region_masks_shim", str(library), "60")
    done = run_python(*arguments, folder=ROOT, **runtime, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stdout
    assert "no finding" in done.stdout, done.stdout
