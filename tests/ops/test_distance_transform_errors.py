"""What distance_transform refuses, and how it says so; what it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import segloss_fast
from segloss_fast import distance_transform
from tests.ops.masks import IMPLS, random_mask

by_impl = pytest.mark.parametrize("impl", IMPLS)
MASK = random_mask((4, 5, 6), "noise")[None, None]
NAN, INF = float("nan"), float("inf")

BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"mask": [1]}, TypeError, "mask must be a tensor, got list"),
    ({"mask": MASK.to(torch.complex64)}, TypeError, "mask must have one of.*got torch.complex64"),
    ({"mask": MASK[0, 0, 0]}, ValueError, r"mask must be \[B, C, \*S\].*got shape \[5, 6\]"),
    ({"mask": MASK[None]}, ValueError, r"one to three spatial dimensions, got shape \[1, 1, 1,"),
    ({"spacing": 0}, ValueError, "spacing must be finite and greater than 0, got 0"),
    ({"spacing": -1.5}, ValueError, "spacing must be finite and greater than 0, got -1.5"),
    ({"spacing": INF}, ValueError, "spacing must be finite and greater than 0, got inf"),
    ({"spacing": (1, NAN, 1)}, ValueError, r"spacing\[1\] must be finite.*got nan"),
    ({"spacing": 1e31}, ValueError, "must lie between 1e-30 and 1e.30, got 1e.31; choose another"),
    ({"spacing": 1e-31}, ValueError, "must lie between 1e-30 and 1e.30, got 1e-31"),
    ({"spacing": (1, 1)}, ValueError, "each of the mask's 3 spatial axes, got 2 numbers"),
    ({"spacing": ()}, ValueError, "each of the mask's 3 spatial axes, got 0 numbers"),
    ({"spacing": "1"}, TypeError, "spacing must be a number, got str"),
    ({"spacing": True}, TypeError, "spacing must be a number, got bool"),
    ({"spacing": (1, "1", 1)}, TypeError, r"spacing\[1\] must be a number, got str"),
    ({"spacing": (1, None, 1)}, TypeError, r"spacing\[1\] must be a number, got NoneType"),
    ({"side": "left"}, ValueError, "side must be one of 'inside', 'outside'.*got 'left'"),
    ({"squared": 1}, TypeError, "squared must be a bool, got int"),
    ({"impl": "fast"}, ValueError, "impl must be one of auto, reference, native, triton"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=[text[:40] for _, _, text in BAD])
def test_bad_input_is_refused(change: dict[str, Any], error: type[Exception], text: str) -> None:
    arguments: dict[str, Any] = {"mask": MASK, **change}
    with pytest.raises(error, match=text):
        distance_transform(arguments.pop("mask"), arguments.pop("spacing", None), **arguments)


@by_impl
def test_spacing_may_come_from_numpy(impl: str) -> None:
    expected = distance_transform(MASK, (3.0, 0.5, 0.25), impl=impl)
    for dtype in (np.float32, np.float64):
        spacing = np.array([3, 0.5, 0.25], dtype=dtype)
        assert torch.equal(distance_transform(MASK, spacing, impl=impl), expected)
    assert torch.equal(
        distance_transform(MASK, np.float32(0.5), impl=impl),
        distance_transform(MASK, 0.5, impl=impl),
    )


def test_a_kernel_that_is_missing_is_named() -> None:
    found = {
        b.impl: b
        for b in segloss_fast.backends()
        if b.primitive == "distance_transform" and b.impl != "scipy"
    }
    assert set(found) == {"reference", "native", "triton"}
    missing = [name for name in found if name not in IMPLS]
    for name in missing:
        with pytest.raises(RuntimeError, match=f"impl='{name}' is not available here: "):
            distance_transform(MASK, impl=name)


@pytest.mark.skipif("native" not in IMPLS, reason="the native kernels are not built")
def test_transforms_of_functions_run_on_the_reference() -> None:
    masks = torch.stack([random_mask((5, 6), kind) for kind in ("noise", "one", "ball")])
    mapped = torch.func.vmap(lambda mask: distance_transform(mask[None, None])[0, 0])(masks)
    expected = distance_transform(masks[:, None], impl="reference")[:, 0]
    torch.testing.assert_close(mapped, expected)
    with pytest.raises(RuntimeError, match="are served by the reference only"):
        torch.func.vmap(lambda mask: distance_transform(mask[None, None], impl="native"))(masks)


@by_impl
def test_the_result_needs_no_gradient(impl: str) -> None:
    mask = torch.rand(1, 2, 4, 5).round().requires_grad_()
    found = distance_transform(mask, side="both", impl=impl)
    assert not found.requires_grad
    assert found.grad_fn is None
    weights = torch.rand(1, 2, 4, 5, requires_grad=True)
    (found.clamp_max(10) * weights).sum().backward()
    assert mask.grad is None
    assert weights.grad is not None
