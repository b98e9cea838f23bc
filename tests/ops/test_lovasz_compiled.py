"""lovasz's Triton kernels compiled for GPUs: registers, spills, loads, atomics, exchanges.

What compiles them also asserts that sizes and ignore_index make no new kernels.
"""

from __future__ import annotations

import pytest

from tests.ops.triton.reports import Report, reported

pytestmark = pytest.mark.compiled


@pytest.fixture(scope="module")
def report() -> Report:
    """What tests/ops/triton/aot_lovasz.py says."""
    found = reported("aot_lovasz", "lovasz")
    assert len(found) > 45
    return found


def test_nothing_spills(report: Report) -> None:
    """But a word or two, of kernels that leave most registers to other programs."""
    for name, kernel in report.items():
        assert kernel["loop_spills"] <= (2 if kernel["registers"] <= 64 else 0), name
        assert kernel["stack"] <= 16, name  # what the assembler keeps there around the loop
        assert kernel["registers"] <= 224, name


def test_few_classes_leave_registers_for_other_programs(report: Report) -> None:
    """At least 512 threads per multiprocessor."""
    for name, kernel in report.items():
        _, classes, _, _, last, _, _ = name.split()
        if int(classes) <= 8 and last != "True":
            assert kernel["registers"] <= 128, name


def test_counting_waits_for_no_atomic(report: Report) -> None:
    """The atomics return nothing; there is one per element of a thread, and one for each bin 0."""
    for name, kernel in report.items():
        counts = name.endswith("count")
        assert kernel["returning_atomics"] == 0, name
        assert (kernel["atomics"] > 2) == counts, name


def test_up_to_16_classes_threads_exchange_nothing(report: Report) -> None:
    """In the loop over the tiles; 64-bit labels may change threads in the backward kernel."""
    checked = 0
    for name, kernel in report.items():
        _, classes, _, target, last, _, direction = name.split()
        if int(classes) > 16 or last == "True":
            continue
        assert kernel["loop_shuffles"] == 0, name
        allowed = 4 if direction == "backward" and target == "int64" else 0
        assert kernel["loop_barriers"] <= allowed, name
        checked += 1
    assert checked > 25


def test_backward_writes_vectors(report: Report) -> None:
    for name, kernel in report.items():
        activation, number, dtype, _, last, _, direction = name.split()
        classes, itemsize = int(number), 4 if dtype == "float32" else 2
        if direction == "backward" and activation == "softmax" and classes <= 4 and last != "True":
            per_thread = min(16 // itemsize, 16 // (1 << (classes - 1).bit_length()))
            assert kernel["stores"] == {str(per_thread * itemsize): classes}, name


def test_forward_and_backward_round_alike(report: Report) -> None:
    """They find the same errors to the last bit.

    Products and sums are not fused (but for the reciprocals of integers, which have none of them),
    and exponentials are added up over the same registers, lanes and warps.
    """
    for name, kernel in report.items():
        assert kernel["fused"] == 0, name
        if name.endswith("count"):
            other = report[name.removesuffix("count") + "backward"]
            assert kernel["softmax_layouts"] == other["softmax_layouts"], name
            assert bool(kernel["softmax_layouts"]) == name.startswith("softmax"), name
