"""Whether probabilities lie in bounds: read in C++, or by torch's operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from segloss_fast._native import _C
from segloss_fast.ops._voxels import maps

LEAST = 1e-7  # between two numbers of single precision, and so is 1 - LEAST
NUMBERS = (np.float32, np.float64)


def edges(kind: type[np.floating]) -> list[float]:
    """Return the numbers of a precision around both bounds, and what is far from them."""
    around = []
    for bound in (kind(LEAST), kind(1 - LEAST)):
        around += [np.nextafter(bound, kind(0)), bound, np.nextafter(bound, kind(1))]
    return [*map(float, around), 0.5, 0.0, 1.0, -1.0, float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("one_thread", [0, maps.ONE_THREAD], ids=["torch", "C++"])
@pytest.mark.parametrize("kind", NUMBERS, ids=lambda kind: kind.__name__)
def test_is_within(
    kind: type[np.floating], one_thread: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "ONE_THREAD", one_thread)
    found = []
    for number in edges(kind):
        x = torch.full((3, 11), 0.5, dtype=torch.float32 if kind is np.float32 else torch.float64)
        x[1, 7] = number
        assert maps.is_within(x, LEAST) == (LEAST <= number <= 1 - LEAST), number
        found.append(maps.is_within(x, LEAST))
    assert any(found)
    assert not all(found)
    assert not maps.is_within(x[:0], LEAST)


@pytest.mark.skipif(_C is None, reason="the native module is not built")
@pytest.mark.parametrize(
    "tensor",
    [torch.rand(4, 6).T, torch.rand(4).half(), torch.ones(3, dtype=torch.int64), torch._neg_view],
    ids=["strides", "half", "int64", "negative"],
)
def test_others_are_not_read(tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        tensor = tensor(torch.rand(4))
    assert _C is not None
    assert _C.all_within(tensor, 0.0, 1.0) is None
