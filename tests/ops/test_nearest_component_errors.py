"""What nearest_component refuses, and how it says so; what it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from segloss_fast import nearest_component
from tests.ops.masks import IMPLS
from tests.ops.nearest_cases import IRRATIONAL, SPACINGS, blobs

by_impl = pytest.mark.parametrize("impl", IMPLS)
needs_native = pytest.mark.skipif("native" not in IMPLS, reason="the kernels are not built")
LABELS = blobs((4, 5, 6), 0.2)
NAN, INF = float("nan"), float("inf")

BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"labels": [1]}, TypeError, "labels must be a tensor, got list"),
    ({"labels": LABELS.float()}, TypeError, "labels must have one of.*got torch.float32"),
    ({"labels": LABELS[0, 0, 0]}, ValueError, r"labels must be \[B, C, \*S\].*shape \[5, 6\]"),
    (
        {"labels": LABELS[None]},
        ValueError,
        r"one to three spatial dimensions, got shape \[1, 1, 1,",
    ),
    ({"spacing": 0}, ValueError, "spacing must be finite and greater than 0, got 0"),
    ({"spacing": (1, NAN, 1)}, ValueError, r"spacing\[1\] must be finite.*got nan"),
    ({"spacing": INF}, ValueError, "spacing must be finite and greater than 0, got inf"),
    ({"spacing": 1e31}, ValueError, "must lie between 1e-30 and 1e.30, got 1e.31"),
    ({"spacing": (1, 1)}, ValueError, "each of the label map's 3 spatial axes, got 2 numbers"),
    ({"spacing": "1"}, TypeError, "spacing must be a number, got str"),
    ({"spacing": (1, 1, 1e26)}, ValueError, "more than 1e.25 times.*got 1 and 1e.26"),
    ({"distance": 1}, TypeError, "distance must be True or False, got 1"),
    ({"impl": "fast"}, ValueError, "impl must be one of auto, reference, native, triton"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=[text[:40] for _, _, text in BAD])
def test_bad_input_is_refused(change: dict[str, Any], error: type[Exception], text: str) -> None:
    arguments: dict[str, Any] = {"labels": LABELS, **change}
    with pytest.raises(error, match=text):
        nearest_component(arguments.pop("labels"), arguments.pop("spacing", None), **arguments)


@by_impl
def test_labels_that_int32_does_not_have_are_refused(impl: str) -> None:
    for dtype, value in (
        *((dtype, -3) for dtype in (torch.int8, torch.int16, torch.int32, torch.int64)),
        (torch.int64, 2**31),
        (torch.int64, -(2**62)),
    ):
        labels = LABELS.to(dtype, copy=True)
        labels[0, 0, 1, 2, 3:5] = value
        for spacing in (None, SPACINGS[IRRATIONAL][0]):
            text = f"labels must lie between 0 and 2147483647, got 2 others.*is {value}$"
            with pytest.raises(ValueError, match=text):
                nearest_component(labels, spacing, impl=impl)
    for unsigned, signed in ((torch.uint32, torch.int32), (torch.uint64, torch.int64)):
        labels = LABELS.to(signed, copy=True)
        labels[0, 0, 1, 2, 3] = -1
        bits = torch.iinfo(signed).bits
        with pytest.raises(ValueError, match=f"got 1 others, the first of which is {2**bits - 1}"):
            nearest_component(labels.view(unsigned), impl=impl)


@by_impl
def test_the_result_needs_no_gradient(impl: str) -> None:
    nearest, distance = nearest_component(LABELS, distance=True, impl=impl)
    assert not nearest.requires_grad
    assert not distance.requires_grad
    weights = torch.rand(LABELS.shape, requires_grad=True)
    (distance * weights).sum().backward()
    assert weights.grad is not None


@needs_native
def test_transforms_of_functions_run_on_the_reference() -> None:
    maps = torch.cat([blobs((5, 6), 0.2, seed) for seed in range(3)])
    mapped = torch.func.vmap(lambda one: nearest_component(one[None])[0])(maps)
    assert torch.equal(mapped, nearest_component(maps, impl="reference"))
    with pytest.raises(RuntimeError, match="are served by the reference only"):
        torch.func.vmap(lambda one: nearest_component(one[None], impl="native"))(maps)


def test_numpy_spacing() -> None:
    expected = nearest_component(LABELS, (3.0, 0.5, 0.25))
    assert torch.equal(nearest_component(LABELS, np.array([3, 0.5, 0.25])), expected)
