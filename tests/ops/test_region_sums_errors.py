"""What region_sums refuses, and how it says so; its record, and the switches of the package."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import segloss_fast
from segloss_fast import RegionSums, region_sums, region_sums_multi
from segloss_fast._native import _C

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


def _change(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"inputs": [X, X], "targets": [LABELS, LABELS], **changes}


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (_change(inputs=X), TypeError, "inputs must be a sequence of tensors, got Tensor"),
        (_change(inputs=[]), ValueError, "inputs must hold at least one tensor"),
        (_change(targets=[LABELS]), ValueError, "targets must hold one tensor per input, 2, got 1"),
        (_change(targets=[LABELS, None]), TypeError, "targets must be a sequence of tensors"),
        (_change(inputs=[X, X[:, :2]]), ValueError, r"the same number of classes, got \[3, 2\]"),
        (_change(inputs=[X, X.double()]), ValueError, "inputs must have one dtype"),
        (_change(inputs=[X, X.long()]), TypeError, "input must have one of the dtypes"),
        (_change(targets=[LABELS, LABELS.int()]), ValueError, "targets must have one dtype"),
        (_change(targets=[LABELS, LABELS[:1]]), ValueError, "target must be class indices"),
        (_change(targets=[LABELS.float(), X]), ValueError, "class indices all, or values per"),
        (_change(voxel_weights=[X[:, :1]]), ValueError, "voxel_weights must hold one tensor per"),
        (_change(voxel_weights=[X[:, :1], X]), ValueError, "one number of channels"),
        (_change(voxel_weights=[X, X.double()]), ValueError, "voxel_weights must have one dtype"),
        (_change(impl="fast"), ValueError, "impl must be one of"),
        (_change(terms=["dice"]), ValueError, "terms must be different names"),
    ],
)
def test_bad_inputs_together_are_refused(
    call: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        region_sums_multi(call.pop("inputs"), call.pop("targets"), **call)


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=[text[:40] for _, _, text in BAD])
def test_bad_input_is_refused(change: dict[str, Any], error: type[Exception], text: str) -> None:
    arguments: dict[str, Any] = {"input": X, "target": LABELS, **change}
    with pytest.raises(error, match=text):
        region_sums(arguments.pop("input"), arguments.pop("target"), **arguments)


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
