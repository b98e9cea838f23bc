"""How region_masks' CUDA kernels run, on the CPU: order of threads, memory traffic, bad calls."""

from __future__ import annotations

import ctypes
import random
from pathlib import Path

import pytest
import torch

from segloss_fast._check import FLOATING
from segloss_fast.ops.region_masks.reference import MODES
from tests.machines import shim
from tests.ops import region_masks_shim
from tests.ops.region_masks_cases import Case, check, random_case, random_labels, random_values

pytestmark = pytest.mark.shim


def test_order_of_threads_changes_nothing() -> None:
    draw, library = random.Random(5), shim("region_masks")
    for _ in range(10):
        case = random_case(draw)
        library.segloss_shim_set_seed(0)
        first = region_masks_shim.run(case)
        library.segloss_shim_set_seed(draw.randrange(1, 1000))
        assert torch.equal(region_masks_shim.run(case), first), case


def test_what_must_be_refused() -> None:
    shim("region_masks")
    region_masks_shim.run_malformed()


def test_each_value_is_read_once(tmp_path: Path) -> None:
    path = region_masks_shim.build_traffic(tmp_path)
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
