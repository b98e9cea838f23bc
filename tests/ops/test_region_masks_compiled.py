"""Compiles the Triton kernel of region_masks for GPUs that need not be there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from segloss_fast.ops._triton.launch import Launch
from segloss_fast.ops.region_masks import triton_launch
from segloss_fast.ops.region_masks.reference import MODES
from tests.ops.triton.compiler import compile_launch, specialization

pytestmark = pytest.mark.compiled

SPACE = (64, 64, 64)
KINDS = {
    "softmax": (torch.float32, torch.float16, torch.bfloat16, torch.float64),
    "sigmoid": (torch.float32,),
    "values": (torch.uint8, torch.int64, torch.float16),
    "labels": (torch.uint8, torch.int64, torch.float32),
}


def launch_of(
    mode: str,
    dtype: torch.dtype,
    label: torch.dtype | None = None,
    space: Sequence[int] = SPACE,
    classes: int = 5,
) -> Launch:
    with torch.device("meta"):
        shape = (2, *space) if mode == "labels" else (2, classes, *space)
        values = torch.empty(shape, dtype=dtype)
        labels = None if label is None else torch.empty((2, *space), dtype=label)
        out = torch.empty((2, classes, *space), dtype=torch.bool)
    ignored = None if label is None else classes
    return triton_launch.launch(values, labels, MODES.index(mode), ignored, 0, out)


def cases() -> Iterator[tuple[str, torch.dtype, torch.dtype | None, Sequence[int], int]]:
    """Yield mode, dtype, dtype of the labels beside, shape, and architecture, these in turn.

    Both shapes in turn, so that each is met with every dtype, and with all labels.
    """
    capabilities = itertools.cycle((80, 90, 90, 80))
    for mode, dtypes in KINDS.items():
        labels = (None,) if mode == "labels" else (None, torch.uint8, torch.int64)
        spaces = itertools.cycle((SPACE, (63, 61, 3)))
        for dtype, label in itertools.product(dtypes, labels):
            yield mode, dtype, label, next(spaces), next(capabilities)


@pytest.mark.parametrize(("mode", "dtype", "label", "space", "capability"), [*cases()], ids=str)
def test_nothing_spills(
    mode: str,
    dtype: torch.dtype,
    label: torch.dtype | None,
    space: Sequence[int],
    capability: int,
) -> None:
    found = compile_launch(launch_of(mode, dtype, label, space), capability)
    assert found.report()["loop_spills"] == 0
    assert found.stack <= 16  # what lies there around the loop
    # Four programs of 128 threads on a multiprocessor of 65536 registers, at least.
    assert found.registers <= (128 if dtype == torch.float64 else 80)


@pytest.mark.parametrize("capability", [80, 90])
def test_a_softmax_is_read_once_in_vectors(capability: int) -> None:
    """Four classes a turn, of four voxels each: one exponential per element, no exchange."""
    for dtype in (torch.float32, torch.float16):
        report = compile_launch(launch_of("softmax", dtype), capability).report()
        assert report["loads"] == {4 * dtype.itemsize: 4}
        assert report["loop_exponentials"] == 4 * 4
        assert report["loop_shuffles"] == report["loop_barriers"] == 0


def test_sizes_and_numbers_make_no_new_kernels() -> None:
    def kernel_of(*arguments: Any) -> Any:  # noqa: ANN401
        return specialization(launch_of(*arguments))

    one = kernel_of("softmax", torch.float32, torch.uint8, (16, 16, 16), 2)
    assert one == kernel_of("softmax", torch.float32, torch.uint8, (1, 4, 5), 33)
    assert one == kernel_of("softmax", torch.float32, torch.uint8, (400,), 7)
