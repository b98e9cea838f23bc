"""The Triton kernels compiled for GPUs: registers, spills, vector loads, bytes, exchanges.

What compiles them also asserts that sizes, the order of terms, gamma and the value of
ignore_index make no new kernels.
"""

from __future__ import annotations

import pytest

from tests.ops.triton.reports import Report, reported

pytestmark = pytest.mark.compiled
SOFTMAX_LOSSES = ("Dice", "DiceCE", "DiceFocal", "CE")


@pytest.fixture(scope="module")
def report() -> Report:
    """What tests/ops/triton/aot.py says."""
    return reported("aot", "region_sums")


def test_nothing_spills(report: Report) -> None:
    assert len(report) > 60
    for name, kernel in report.items():
        assert kernel["loop_spills"] == 0, name
        # What the assembler keeps there around the loop; no loss asks for all terms together.
        assert kernel["stack"] <= (32 if name.startswith("All ") else 16), name
    assert max(kernel["registers"] for kernel in report.values()) <= 255


def is_of_labels(name: str) -> bool:
    """Whether a kernel is that of a softmax against class indices."""
    loss, classes, _, target, _, direction = name.split()
    served = loss in SOFTMAX_LOSSES and target != "dense" and direction == "forward"
    return served and 1 < int(classes) <= 128


def test_the_usual_losses_leave_registers_for_other_programs(report: Report) -> None:
    """At least 384 threads per multiprocessor; of class indices 512, of few of them 768."""
    for name, kernel in report.items():
        loss, number, *_ = name.split()
        if is_of_labels(name):
            assert kernel["registers"] <= (80 if int(number) <= 4 else 128), name
        elif loss in SOFTMAX_LOSSES:
            assert kernel["registers"] <= 168, name


def test_instructions_per_element(report: Report) -> None:
    """What bounds half precision: 14 leave 85 % of a copy's speed."""
    budgets = {2: 17, 3: 18, 4: 15, 8: 15, 14: 15.5, 32: 17, 64: 18.5, 105: 22.5}
    checked = set()
    for name, kernel in report.items():
        loss, number, *_ = name.split()
        if is_of_labels(name):
            # A focal term has a logarithm per voxel, and a sum over the classes more.
            focal = 28 / int(number) + (10 if int(number) > 16 else 0)
            more = focal if loss == "DiceFocal" else 0
            count = kernel["loop_instructions"] / kernel["elements"]
            assert count <= budgets[int(number)] + more, (name, count)
            checked.add(int(number))
    assert checked == set(budgets)


def vector(classes: int, itemsize: int) -> int:
    """Bytes of a load: 16, as long as a thread holds at most 32 elements."""
    padded = 1 << (classes - 1).bit_length()
    return min(16, itemsize * 32 // padded)


def test_a_tile_is_read_once_and_written_once_in_vectors(report: Report) -> None:
    checked = 0
    for name, kernel in report.items():
        loss, number, dtype, target, _, direction = name.split()
        classes, itemsize = int(number), 4 if dtype == "float32" else 2
        if loss not in SOFTMAX_LOSSES or classes > 16 or direction == "total":
            continue
        if loss == "CE" and direction == "backward" and classes == 1:
            continue
        width = vector(classes, itemsize)
        voxels = width // itemsize
        # All that a thread reads and writes in the loop: its voxels, once.
        labels = {"uint8": 1, "int64": 8, "dense": classes * itemsize}[target]
        assert kernel["loop_bytes_read"] == voxels * (classes * itemsize + labels), name
        assert kernel["loads"][str(width)] >= classes, name
        if direction == "backward":
            assert kernel["stores"] == {str(width): classes}, name
        checked += 1
    assert checked > 30


def test_the_softmax_of_a_class_column_stays_in_its_thread(report: Report) -> None:
    """No shuffle in the loop up to 16 classes; 64-bit labels may change threads."""
    for name, kernel in report.items():
        loss, classes, _, target, _, direction = name.split()
        if loss in SOFTMAX_LOSSES and int(classes) <= 16 and direction != "total":
            assert kernel["loop_shuffles"] == 0, name
            assert kernel["loop_barriers"] <= (4 if target == "int64" else 0), name


def test_one_exponential_per_element(report: Report) -> None:
    for name, kernel in report.items():
        loss, number, dtype, _, _, direction = name.split()
        classes, itemsize = int(number), 4 if dtype == "float32" else 2
        if loss in ("Dice", "DiceCE") and 1 < classes <= 16 and direction != "total":
            voxels = vector(classes, itemsize) // itemsize
            assert kernel["loop_exponentials"] == classes * voxels, name
        elif is_of_labels(name) and loss != "DiceFocal":  # of padding, too
            padded = 1 << (classes - 1).bit_length()
            assert kernel["loop_exponentials"] / kernel["elements"] <= padded / classes, name
