"""Tests of region_masks' Triton kernel under Triton's interpreter."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from segloss_fast import backends
from segloss_fast._check import FLOATING
from segloss_fast.ops.region_masks import prediction_masks, target_masks, triton_launch
from segloss_fast.ops.region_masks.op import kernels
from tests.ops.distance_transform_cases import LAYOUTS, lay_out
from tests.ops.region_masks_cases import (
    DTYPES,
    Case,
    compare,
    far_apart,
    near_one_half,
    not_finite,
    random_case,
    random_labels,
    random_values,
)

pytestmark = [
    # Of the interpreter's arithmetic with NaN and infinity, which the tests are about.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.usefixtures("new_tensors_are_nan"),
]


def run(case: Case) -> Tensor:
    return triton_launch.forward(*case.arguments)


@pytest.mark.parametrize("seed", range(3))
def test_random_problems(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(15):
        compare(run, random_case(draw))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_and_layouts(dtype: torch.dtype) -> None:
    draw = random.Random(0)
    for layout in LAYOUTS:
        labels = lay_out(random_labels((2, 3, 4, 8), 5, dtype, draw), layout)
        values = lay_out(random_values((2, 5, 3, 4, 8), dtype, draw, strange=True), layout)
        for ignored in (None, 1, -1, 2**40):
            compare(run, Case(labels, None, 5, "labels", ignored))
            compare(run, Case(values, labels, 5, "values", ignored))
        if dtype in FLOATING:
            compare(run, Case(values, labels, 5, "softmax", 1))
            compare(run, Case(values, labels, 5, "sigmoid", 1))


@pytest.mark.parametrize("size", [512, 513, 1024, 1028], ids=str)
def test_blocks(size: int) -> None:
    draw = random.Random(0)
    for classes in (1, 4, 5):
        labels = random_labels((2, size), classes, torch.int16, draw)
        values = random_values((2, classes, size), torch.float32, draw, strange=False)
        for first in (0, 1, 9):
            compare(run, Case(values, labels, classes, "softmax", 0, first))
            compare(run, Case(labels, None, classes, "labels", 0, first))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_ends_of_the_range_and_the_middle(dtype: torch.dtype) -> None:
    compare(run, not_finite(dtype))
    compare(run, near_one_half(dtype))


@pytest.mark.parametrize("mode", ["softmax", "sigmoid", "values", "labels"])
def test_offsets_past_2_to_the_31(mode: str) -> None:
    compare(run, far_apart(mode, torch.uint8 if mode == "labels" else torch.float16))


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0, 5)], ids=str)
def test_empty(shape: Sequence[int]) -> None:
    assert run(Case(torch.zeros(shape), None, 3, "softmax")).shape == shape
    assert run(Case(torch.zeros(shape[:1] + shape[2:]), None, 3, "labels")).shape == shape


def test_the_public_way() -> None:
    draw = random.Random(0)
    x = random_values((2, 3, 5, 9), torch.float32, draw, strange=False)
    labels = random_labels((2, 5, 9), 3, torch.uint8, draw)
    found = prediction_masks(x, labels, activation="softmax", ignore_index=1, impl="triton")
    expected = prediction_masks(x, labels, activation="softmax", ignore_index=1, impl="reference")
    assert torch.equal(found, expected)
    found = target_masks(labels, 3, dense=False, ignore_index=1, impl="triton")
    assert torch.equal(
        found, target_masks(labels, 3, dense=False, ignore_index=1, impl="reference")
    )
    assert kernels.choose("triton", x.device) == "triton"
    assert kernels.choose("auto", x.device) != "triton"  # never by itself
    (said,) = (
        b
        for b in backends()
        if (b.primitive, b.impl, b.device) == ("region_masks", "triton", "cpu")
    )
    assert said.available


def test_opcheck() -> None:
    x = torch.randn(2, 3, 4, 5)
    labels = torch.randint(0, 3, (2, 4, 5))
    operator = torch.ops.segloss_fast.region_masks
    torch.library.opcheck(operator, (x, labels, 3, "softmax", 1, 0, "triton"))
    torch.library.opcheck(operator, (labels, None, 3, "labels", None, 1, "triton"))
