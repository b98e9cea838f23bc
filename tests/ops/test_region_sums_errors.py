"""What region_sums refuses, and how it says so; out-of-range labels; what runs on the reference."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import segloss_fast
from segloss_fast import RegionSums, region_sums
from segloss_fast._native import _C
from tests.helpers import IMPLS

by_impl = pytest.mark.parametrize("impl", IMPLS)
X = torch.randn(2, 3, 4, 5)
LABELS = torch.zeros(2, 4, 5, dtype=torch.int64)

BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"input": [1.0]}, TypeError, "input must be a tensor, got list"),
    ({"input": X.long()}, TypeError, "input must have one of the dtypes float16.*got torch.int64"),
    ({"input": X[0, 0]}, ValueError, r"input must be \[B, C, \*S\].*got shape \[4, 5\]"),
    ({"input": torch.zeros(1, 1, 1, 1, 1, 1)}, ValueError, "one to three spatial dimensions"),
    ({"input": X[:, :0], "target": LABELS}, ValueError, "at least one class"),
    ({"input": X[:, :1]}, ValueError, "at least two classes.*use 'sigmoid'"),
    ({"target": None}, TypeError, "target must be a tensor, got NoneType"),
    ({"target": LABELS.to(torch.complex64)}, TypeError, "target must have one of the dtypes"),
    ({"target": LABELS[:, :3]}, ValueError, r"target must be class indices of shape \[2, 4, 5\]"),
    ({"target": X[:, :2]}, ValueError, r"got \[2, 2, 4, 5\]"),
    (
        {"target": LABELS.to("meta")},
        ValueError,
        "target must be on the device of input, cpu, got meta",
    ),
    ({"target": X, "ignore_index": 1}, ValueError, "ignore_index goes with class indices"),
    ({"ignore_index": 1.0}, TypeError, "ignore_index must be an int or None, got float"),
    ({"activation": "relu"}, ValueError, "activation must be one of 'softmax'.*got 'relu'"),
    ({"ce_activation": "relu"}, ValueError, "ce_activation must be one of"),
    ({"activation": 1}, TypeError, "activation must be a str, one of 'softmax'.*got int"),
    ({"impl": None}, TypeError, "impl must be a str, one of auto, reference.*got NoneType"),
    ({"activation": "probabilities", "ce_activation": "softmax"}, ValueError, "must agree"),
    ({"terms": []}, ValueError, "terms must be different names among tp, tp_soft, fp"),
    ({"terms": ["tp", "tp"]}, ValueError, "terms must be different names"),
    ({"terms": ["dice"]}, ValueError, r"got \('dice',\)"),
    ({"terms": [["tp"]]}, TypeError, "terms must be a sequence of names"),
    ({"terms": "tp"}, TypeError, "terms must be a sequence of names"),
    ({"terms": None}, ValueError, "terms must be different names"),
    ({"terms": ["focal"], "gamma": "2"}, TypeError, "gamma must be a number, got str"),
    ({"terms": ["focal"]}, TypeError, "gamma must be a number, got NoneType"),
    ({"terms": ["focal"], "gamma": -1.0}, ValueError, "gamma must be.*got -1.0"),
    ({"terms": ["focal"], "gamma": float("nan")}, ValueError, "gamma must be.*got nan"),
    (
        {"voxel_weight": X[:, :1].to(torch.complex64)},
        TypeError,
        "voxel_weight must have one of the dtypes",
    ),
    ({"voxel_weight": X[:, :2]}, ValueError, r"voxel_weight must have shape \[2, 1, 4, 5\]"),
    ({"voxel_weight": X.to("meta")}, ValueError, "voxel_weight must be on the device"),
    ({"impl": "fast"}, ValueError, "impl must be one of auto, reference, native, triton"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=[text[:40] for _, _, text in BAD])
def test_bad_input_is_refused(change: dict[str, Any], error: type[Exception], text: str) -> None:
    arguments: dict[str, Any] = {"input": X, "target": LABELS, **change}
    with pytest.raises(error, match=text):
        region_sums(arguments.pop("input"), arguments.pop("target"), **arguments)


@by_impl
def test_the_first_of_many_labels_out_of_range_is_named(impl: str) -> None:
    """However many items and chunks of voxels there are."""
    labels = torch.zeros((3, 3000), dtype=torch.int64)
    labels[1, 5], labels[1, 2990], labels[2, 0] = 40, 41, 42
    with pytest.raises(ValueError, match=r"got 3 other values, the first of which is 40$"):
        region_sums(torch.zeros(3, 2, 3000), labels, impl=impl)


@by_impl
@pytest.mark.parametrize(
    ("dtype", "bad"),
    [
        (torch.uint8, 255),
        (torch.int8, -1),
        (torch.int16, 3),
        (torch.int32, -(2**31)),
        (torch.int64, 2**40),
        (torch.int64, 2**32 + 1),
        (torch.float32, 1.5),
        (torch.float32, float("inf")),
        (torch.float64, -0.5),
    ],
    ids=str,
)
def test_labels_out_of_range(impl: str, dtype: torch.dtype, bad: float) -> None:
    labels = torch.zeros(2, 97, 101, dtype=dtype)
    x = torch.randn(2, 3, 97, 101)
    labels[1, 50, 7] = bad
    labels[1, 60, 0] = 4
    shown = str(bad)
    with pytest.raises(
        ValueError, match=rf"\[0, 3\) or ignore_index, got 2 other.*is {re.escape(shown)}$"
    ):
        region_sums(x, labels, impl=impl)
    labels[1, 60, 0] = 2
    if bad == int(bad) if abs(bad) < 1e30 else False:
        region_sums(x, labels, ignore_index=int(bad), impl=impl)
    with pytest.raises(ValueError, match="got 1 other"):
        region_sums(x, labels, ignore_index=0, impl=impl)


@by_impl
def test_nan_labels(impl: str) -> None:
    labels = torch.full((2, 4, 5), torch.nan)
    with pytest.raises(ValueError, match="got 40 other values, the first of which is nan"):
        region_sums(X, labels, impl=impl)


@pytest.mark.skipif(_C is None, reason="the native module is not built")
def test_only_the_reference_differentiates_target_and_weight() -> None:
    target = torch.rand_like(X).requires_grad_()
    weight = torch.rand(2, 1, 4, 5, requires_grad=True)
    terms = ("tp", "sq_err", "nll", "nll_neg", "abs_err")
    with pytest.raises(RuntimeError, match="impl='native' is not available here: the gradient"):
        region_sums(X, target, terms=terms, impl="native")
    with torch.no_grad():
        region_sums(X, target, terms=terms, impl="native")
    x, t, w = (
        X[:1, :, :2, :2].double(),
        target[:1, :, :2, :2].double(),
        weight[:1, :, :2, :2].double(),
    )
    leaves = tuple(tensor.detach().requires_grad_() for tensor in (x, t, w))
    assert torch.autograd.gradcheck(
        lambda x, t, w: region_sums(x, t, terms=terms, voxel_weight=w).rows, leaves
    )


@pytest.mark.skipif(_C is None, reason="the native module is not built")
def test_double_backward_says_what_to_do() -> None:
    x = X.clone().requires_grad_()
    for impl in ("native", "reference"):
        (grad,) = torch.autograd.grad(
            region_sums(x, LABELS, impl=impl).tp.square().sum(), x, create_graph=True
        )
        if impl == "native":
            with pytest.raises(RuntimeError, match="use impl='reference' for double backward"):
                grad.sum().backward()
        else:
            grad.square().sum().backward()


@by_impl
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str
)
@pytest.mark.parametrize("ignore_index", [-1, 255, 258, 2**40, -(2**63)])
def test_an_ignore_index_that_no_label_can_have(
    impl: str, dtype: torch.dtype, ignore_index: int
) -> None:
    labels = torch.arange(40, dtype=dtype).view(2, 4, 5) % 3
    rows = region_sums(X, labels, terms=["target", "weight"], impl=impl).rows
    other = region_sums(
        X, labels, terms=["target", "weight"], ignore_index=ignore_index, impl=impl
    ).rows
    assert torch.equal(rows, other)
    if dtype == torch.uint8 and ignore_index != 255:
        labels[0, 0, 0] = 255
        with pytest.raises(ValueError, match="the first of which is 255"):
            region_sums(X, labels, ignore_index=ignore_index, impl=impl)


@by_impl
def test_a_row_read_without_gradient_does_not_take_it_away(impl: str) -> None:
    x = X.clone().requires_grad_()
    sums = region_sums(x, LABELS, impl=impl)
    with torch.no_grad():
        assert sums.tp.isfinite().all()
    sums.tp.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_torch_func_takes_the_reference() -> None:
    grad = torch.func.grad(lambda x: region_sums(x, torch.rand_like(X)).tp.sum())(X)
    assert grad.shape == X.shape


def test_region_sums_record() -> None:
    sums = region_sums(X, LABELS, terms=["tp", "pred"])
    assert torch.equal(sums.tp, sums.rows[0])
    assert torch.equal(sums.pred, sums.rows[1])
    assert torch.equal((sums + sums).rows, 2 * sums.rows)
    assert torch.equal(sum([sums, sums]).rows, 2 * sums.rows)  # type: ignore[union-attr]
    with pytest.raises(AttributeError, match="'target' was not asked for"):
        _ = sums.target
    with pytest.raises(AttributeError, match="no attribute 'dice'"):
        _ = sums.dice
    with pytest.raises(ValueError, match="same terms"):
        _ = sums + region_sums(X, LABELS, terms=["tp"])
    with pytest.raises(AttributeError):
        sums.rows = sums.rows  # type: ignore[misc]
    assert isinstance(sums, RegionSums)


def test_impl_defaults_and_blocks() -> None:
    missing = "native" if _C is None else "triton"
    with pytest.raises(RuntimeError, match=f"impl='{missing}' is not available here"):
        region_sums(X, LABELS, impl=missing)
    block = segloss_fast.use_impl(missing)
    with block:
        with block:
            pass
        with pytest.raises(RuntimeError, match=missing):
            region_sums(X, LABELS)
    region_sums(X, LABELS)
    segloss_fast.set_impl("reference")
    try:
        exact = torch.equal(
            region_sums(X, LABELS).rows, region_sums(X, LABELS, impl="reference").rows
        )
    finally:
        segloss_fast.set_impl("auto")
    assert exact
    with pytest.raises(ValueError, match="impl must be one of"):
        segloss_fast.set_impl("gpu")
    with pytest.raises(ValueError, match="impl must be one of"):
        segloss_fast.use_impl("gpu")


def test_debug_is_a_switch_and_a_block() -> None:
    from segloss_fast._impl import debug_enabled

    assert not debug_enabled()
    with segloss_fast.debug(True):
        assert debug_enabled()
        with segloss_fast.debug(False):
            assert not debug_enabled()
        assert debug_enabled()
    assert not debug_enabled()
    segloss_fast.debug()
    assert debug_enabled()
    segloss_fast.debug(False)
    assert not debug_enabled()


@pytest.mark.parametrize("impl", IMPLS)
def test_an_infinite_label_is_not_the_ignored_one(impl: str) -> None:
    """In half precision an ignored label of 2^31 would be infinite, and 2049 would be 2048."""
    for ignored in (2**31, 2049, -(2**40)):
        for label in (torch.inf, 2048.0):
            labels = torch.tensor([[0.0, 1.0, label]], dtype=torch.float16)
            with pytest.raises(ValueError, match="got 1 other values"):
                region_sums(torch.zeros(1, 3, 3), labels, ignore_index=ignored, impl=impl)
