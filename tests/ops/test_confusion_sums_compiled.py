"""Compiles the Triton kernels of confusion_sums for GPUs that need not be there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from segloss_fast.ops._triton.launch import Launch
from segloss_fast.ops.confusion_sums import triton_launch
from tests.ops.triton.compiler import compile_launch, specialization

pytestmark = pytest.mark.compiled

SPACE = (64, 64, 64)


def launches(
    classes: int,
    dtype: torch.dtype = torch.float32,
    label: torch.dtype | None = torch.uint8,
    weight: int = 0,
    space: Sequence[int] = SPACE,
    ignore_index: int | None = 255,
) -> tuple[Launch, Launch, Launch]:
    """Return the two launches of the forward pass and that of the backward pass.

    Of class indices of dtype ``label``, None: of values; and a weight of so many channels.
    """
    with torch.device("meta"):
        x = torch.empty((2, classes, *space), dtype=dtype)
        target = torch.empty_like(x) if label is None else torch.empty((2, *space), dtype=label)
        w = torch.empty((2, weight, *space)) if weight else None
        sums = torch.empty((2, classes, classes + 1), dtype=torch.float64)
        invalid, table = torch.empty(2, dtype=torch.float64), torch.empty((2, classes, classes))
    call = (x, target, w, 0, ignore_index)
    first, second = triton_launch.forward_launches(sums, invalid, *call)
    return first, second, triton_launch.backward_launch(torch.empty_like(x), table, *call)


def check(
    launch: Launch, capability: int, most: int, note: object, stack: int = 16
) -> dict[str, Any]:
    """Compile; the stack holds what lies around the loop, of which the report is."""
    found = compile_launch(launch, capability)
    report = found.report()
    assert report["loop_spills"] == 0, note
    assert found.stack <= stack, note
    assert found.registers <= most, note
    return report


@pytest.mark.parametrize(("classes", "most", "capability"), [(4, 96, 90), (8, 168, 80)])
def test_few_classes_are_read_once_in_vectors(classes: int, most: int, capability: int) -> None:
    """No exchange between threads in the loop, and one exponential per element."""
    kinds: list[tuple[torch.dtype, torch.dtype | None, int]] = [(torch.float32, torch.uint8, 0)]
    if classes == 4:
        kinds += [(torch.float32, torch.uint8, 1), (torch.float32, None, 0)]
        kinds += [(torch.float16, torch.uint8, 0)]
    for dtype, label, weight in kinds:
        first, _, backward = launches(classes, dtype, label, weight)
        voxels = min(16 // dtype.itemsize, 2 if classes == 8 else 32 // classes)
        width = voxels * dtype.itemsize
        of_target = voxels if label is not None else classes * width
        for launch in (first, backward):
            note = (classes, dtype, label, weight)
            report = check(launch, capability, most + 32 * (dtype == torch.float16), note)
            read = classes * width + of_target + 4 * weight * voxels
            assert report["loop_bytes_read"] == read, note
            assert report["loads"][width] >= classes, note
            assert report["loop_exponentials"] == classes * voxels, note
            assert report["loop_shuffles"] == report["loop_barriers"] == 0, note
        assert report["stores"] == {width: classes}


@pytest.mark.parametrize(
    ("classes", "most", "capability"), [(14, 168, 90), (32, 168, 80), (105, 255, 90)]
)
def test_more_classes_are_read_once_too(classes: int, most: int, capability: int) -> None:
    """Sixteen elements per thread, one exponential each, and four to merge blocks of classes."""
    for label in (torch.uint8, None):
        first, _, backward = launches(classes, label=label)
        report = check(first, capability, most, label)
        assert report["loads"][16] == (4 if label else 6 if classes == 105 else 8)
        assert report["loop_exponentials"] == 20
        report = check(backward, capability, most, label)
        if label is not None:
            assert report["stores"] == {16: 4}
            assert report["loop_exponentials"] == 20


def test_other_layouts_and_very_many_classes() -> None:
    for classes, capability in ((4, 80), (14, 80), (130, 90)):
        # Beyond 128 classes there are loops around that of the report, where ten registers may.
        stack = 40 if classes == 130 else 0
        for launch in launches(classes, torch.bfloat16, torch.int64, classes, (63, 61, 3)):
            check(launch, capability, 255, classes, stack)


@pytest.mark.parametrize("classes", [4, 14])
def test_memory_that_begins_anywhere(classes: int) -> None:
    first, _, backward = launches(classes)
    for launch in (first, backward):
        found = compile_launch(launch, 90, aligned=False)
        assert found.report()["loop_spills"] == found.stack == 0
        assert 16 not in found.report()["loads"]


def test_the_products_run_on_tensor_cores() -> None:
    first, _, _ = launches(105)
    for capability, name in ((80, "HMMA.16816.F32.BF16"), (90, "HGMMA.64x128x16.F32.BF16")):
        assert name in compile_launch(first, capability).sass


@pytest.mark.parametrize("classes", [4, 14])
def test_sizes_and_numbers_make_no_new_kernels(classes: int) -> None:
    def kernels_of(*arguments: Any) -> list[Any]:  # noqa: ANN401
        found = launches(classes, torch.float32, torch.uint8, 0, *arguments)
        return [specialization(launch) for launch in found]

    one = kernels_of((16, 16, 16), 7)
    assert one == kernels_of((1, 4, 4), 255)
    assert one == kernels_of((400,), 0)
    assert one == kernels_of((2, 2, 4), 1)
