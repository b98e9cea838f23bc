"""The Triton kernels compiled for GPUs: registers, spills, vector loads, bytes, exchanges."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

pytest.importorskip("triton")

TARGETS = {"uint8": "u8", "int64": "i64", "dense": "dense"}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What tests/ops/triton_aot.py says, run without the interpreter and with a cache of its own."""
    environ = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environ["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    path: Path = tmp_path_factory.mktemp("report") / "report.json"
    command = [sys.executable, "-m", "tests.ops.triton_aot", str(path)]
    done = subprocess.run(
        command, cwd=ROOT, env=environ, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, dict[str, Any]] = json.loads(path.read_text())
    return found


def test_nothing_spills(report: dict[str, dict[str, Any]]) -> None:
    assert len(report) > 100
    spilled = {name: kernel["stack"] for name, kernel in report.items() if kernel["stack"]}
    assert not spilled
    assert max(kernel["registers"] for kernel in report.values()) <= 255


def test_the_usual_losses_leave_registers_for_other_programs(
    report: dict[str, dict[str, Any]],
) -> None:
    """At least three programs of 128 threads, or one and a half of 256, per multiprocessor."""
    for name, kernel in report.items():
        loss, classes, *_ = name.split()
        if loss in ("Dice", "DiceCE", "DiceFocal", "CE") and int(classes) <= 128:
            assert kernel["registers"] <= 168, name


def vector(classes: int, itemsize: int) -> int:
    """Bytes of a load: 16, as long as a thread holds at most 32 elements."""
    if classes > 16:
        return min(16, 4 * itemsize)
    padded = 1 << (classes - 1).bit_length()
    return min(16, itemsize * (32 // padded))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_tile_is_read_once_and_written_once_in_vectors(
    report: dict[str, dict[str, Any]], dtype: str
) -> None:
    """Loads of the tile's width, one per class and vector, and nothing narrower or twice."""
    itemsize = 4 if dtype == "float32" else 2
    checked = 0
    for name, kernel in report.items():
        loss, classes_, kind, target, _, direction = name.split()
        classes = int(classes_)
        if kind != dtype or loss != "DiceCE" or classes > 16 or direction == "total":
            continue
        assert kernel["vectors"]["input"] == classes, name
        assert kernel["vectors"]["bytes"] == vector(classes, itemsize), name
        # All that a thread reads in the loop: its voxels of every class, and their labels.
        labels = {"uint8": 1, "int64": 8, "dense": classes * itemsize}[target]
        voxels = vector(classes, itemsize) // itemsize
        assert kernel["loop_bytes_read"] == voxels * (classes * itemsize + labels), name
        if direction == "backward":
            assert kernel["loop_bytes_written"] == voxels * classes * itemsize, name
        checked += 1
    assert checked >= 8


def test_the_softmax_of_a_class_column_stays_in_its_thread(
    report: dict[str, dict[str, Any]],
) -> None:
    """No shuffle in the loop up to 16 classes, and at most the labels through shared memory."""
    for name, kernel in report.items():
        loss, classes, _, target, _, direction = name.split()
        if loss in ("Dice", "DiceCE", "DiceFocal", "CE") and int(classes) <= 16:
            if direction == "total":
                continue
            assert kernel["loop_shuffles"] == 0, name
            assert kernel["loop_barriers"] <= (0 if target == "dense" else 4), name


def test_one_exponential_per_element(report: dict[str, dict[str, Any]]) -> None:
    for name, kernel in report.items():
        loss, classes, kind, _, _, direction = name.split()
        if loss == "Dice" and int(classes) <= 16 and direction != "total" and int(classes) > 1:
            voxels = vector(int(classes), 4 if kind == "float32" else 2)
            voxels //= 4 if kind == "float32" else 2
            assert kernel["exponentials"] == int(classes) * voxels, name
