"""Sizes and counts that would overflow are refused: no write out of bounds, no loop for ever."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import segloss_fast
from segloss_fast._native import _C
from segloss_fast.ops.confusion_sums import confusion_sums
from segloss_fast.ops.hardest_voxels import Rule, hardest_voxels
from segloss_fast.ops.structural_error import structural_error

pytestmark = pytest.mark.skipif(_C is None, reason="the native module is not built")

Call = Callable[[Tensor, Tensor], object]
CALLS: dict[str, Call] = {
    "region_sums": lambda x, t: segloss_fast.region_sums(x, t, impl="native"),
    "lovasz": lambda x, t: segloss_fast.lovasz(x, t, method="histogram", impl="native"),
    "lovasz_sort": lambda x, t: segloss_fast.lovasz(x, t, method="sort", impl="native"),
    "hardest_voxels": lambda x, t: hardest_voxels(x, t, None, Rule(10.0, "softmax"), impl="native"),
    "confusion_sums": lambda x, t: confusion_sums(x, t, impl="native"),
    "component_sums": lambda x, t: segloss_fast.component_sums(
        x, t, torch.zeros((), dtype=torch.int32).expand(x.shape), count=1, impl="native"
    ),
    "structural_error": lambda x, t: structural_error(
        x, x, window_size=3, sigma=1.5, constant=0.01, impl="native"
    ),
}
# Of 2^56 values and more, whose products with a few bytes wrap around.
SHAPES = [(1, 2**56, 1), (1, 2, 2**55), (2**40, 2, 2**20), (1, 2, 2**20, 2**20, 2**20)]

WRAPPING = (2**31, 2**32 - 1, 2**32, 2**47)  # numbers of classes


@pytest.mark.parametrize("name", list(CALLS))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_expanded_tensors_whose_sizes_wrap(
    name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    x = torch.zeros((), dtype=dtype).expand(shape)
    labels = torch.zeros((), dtype=torch.uint8).expand(shape[0], *shape[2:])
    if name == "structural_error" and dtype == torch.float16:
        pytest.skip("takes no half precision")
    with pytest.raises((RuntimeError, MemoryError)):
        CALLS[name](x, labels)


def attempt_classes(classes: int) -> None:
    """Ask the raw operators of confusion_sums for sums of so many classes; they must refuse."""
    operators = torch.ops.segloss_fast
    x, labels = torch.zeros(()).expand(1, classes, 1), torch.zeros(1, 1, dtype=torch.uint8)
    grad = torch.zeros(()).expand(1, 1, 1)
    for name, arguments in (("", (x, labels)), ("_backward", (grad, x, labels))):
        operator = getattr(operators, f"_confusion_sums{name}")
        with pytest.raises(RuntimeError, match=r"more than 2\^48 values"):
            operator(*arguments, None, 0, None)


@pytest.mark.parametrize("classes", WRAPPING)
def test_confusion_sums_of_classes_whose_squares_wrap(classes: int) -> None:
    attempt_classes(classes)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize(
    ("place", "number"), [(0, -1), (5, -(2**60)), (7, 2**53 + 1), (31, 2**63 - 1)]
)
def test_counts_that_are_none(place: int, number: int, double: bool) -> None:
    counts = torch.ones(2, 1, 1, 2, 72, dtype=torch.int64)
    rows = torch.zeros(2, 1, 1, dtype=torch.float64)
    scan = torch.ops.segloss_fast._lovasz_scan
    scan(counts, rows, 0, 9, 1, double)
    counts[0].view(-1)[place] = number
    with pytest.raises(RuntimeError, match=f"2\\^53 in all, got {number}"):
        scan(counts, rows, 0, 9, 1, double)
    counts[0] = 2**48
    counts[0].view(-1)[place] = 2**52
    with pytest.raises(RuntimeError, match="counts must be at least 0"):
        scan(2 * counts, rows, 0, 9, 1, double)
