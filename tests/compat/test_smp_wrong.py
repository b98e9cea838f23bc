"""Wrong calls of the drop-ins of segmentation-models-pytorch: the peer's types of exceptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from segloss_fast.compat import smp as compat
from tests.compat.test_smp_module import MODES, theirs

pytestmark = pytest.mark.peers

X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.zeros(2, 4, 4, dtype=torch.long)
REGION = ("DiceLoss", "JaccardLoss", "TverskyLoss")


def raised(call: Callable[[], Any]) -> Exception:
    """Return the exception of a call."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    return caught.value


def check(name: str, options: dict[str, Any], *tensors: torch.Tensor) -> None:
    """Assert that both raise the same type, ours with a message."""
    ours, peers = (
        raised(lambda make=make: make(**options)(*tensors))  # type: ignore[misc]
        for make in (getattr(compat, name), theirs(name))
    )
    assert isinstance(ours, type(peers)), f"{name} {options}: {ours!r}, {peers!r}"
    assert str(ours)


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("mode", ["Binary", "", None])
def test_modes(name: str, mode: str | None) -> None:
    check(name, {"mode": mode}, X, Y)
    assert "multilabel" in str(raised(lambda: getattr(compat, name)(mode)))


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("ignored", [None, 7])
def test_sizes(name: str, mode: str, ignored: int | None) -> None:
    options = {"mode": mode, "ignore_index": ignored}
    for target in (Y[:, :3], torch.stack([Y, Y], 1), Y[:1]):
        if name == "LovaszLoss" and mode == "multiclass" and ignored is None:
            continue  # below, the peer pairs what does not belong together
        check(name, options, X, target)
    if mode != "multiclass":
        check(name, options, X, Y)


def test_options() -> None:
    for name in REGION:
        check(name, {"mode": "binary", "classes": [0]}, X[:, :1], Y)
        check(name, {"mode": "multiclass", "classes": [0, 7]}, X, Y)
    for name in (*REGION, "FocalLoss"):
        check(name, {"mode": "binary", "class_weights": [1.0]}, X[:, :1], Y)
        check(name, {"mode": "multiclass", "class_weights": [1.0, 2.0]}, X, Y)
        check(name, {"mode": "multiclass", "weight": 1}, X, Y)
    check("FocalLoss", {"mode": "multiclass", "gamma": None}, X, Y)
    check("LovaszLoss", {"mode": "multiclass"}, X[:, :1], Y)


def test_dtypes_and_devices() -> None:
    for name in (*REGION, "FocalLoss", "SoftCrossEntropyLoss"):
        options = {"smooth_factor": 0.1} if name.startswith("Soft") else {"mode": "multiclass"}
        check(name, options, X.long(), Y)
    check("SoftCrossEntropyLoss", {"smooth_factor": 0.1}, X, Y.to("meta"))


def test_other_losses() -> None:
    check("MCCLoss", {}, X[:, :1].sigmoid(), Y[:, :3])
    check("MCCLoss", {}, X.sigmoid(), Y)
    check("SoftBCEWithLogitsLoss", {}, X, Y.float())
    check("SoftBCEWithLogitsLoss", {}, X[:, :1], Y.float())
    check("SoftBCEWithLogitsLoss", {"pos_weight": torch.ones(7)}, X, X.sigmoid())
    check("SoftBCEWithLogitsLoss", {"weight": torch.ones(7, 1, 1)}, X, X.sigmoid())
    check("SoftCrossEntropyLoss", {"smooth_factor": 0.1}, X, Y[:, :3])
    check("SoftCrossEntropyLoss", {"smooth_factor": 0.1}, X, Y[0, 0])


@pytest.mark.parametrize("name", [*MODES, "SoftCrossEntropyLoss"])
def test_labels_out_of_range(name: str) -> None:
    options = {"mode": "multiclass"} if name in MODES else {"smooth_factor": 0.1}
    with pytest.raises(ValueError, match=r"class indices in \[0, 3\).*first of which is 3"):
        getattr(compat, name)(**options)(X, Y + 3)


@pytest.mark.parametrize("name", MODES)
def test_values_out_of_range(name: str) -> None:
    loss = getattr(compat, name)("binary", ignore_index=255)
    for target in (7 + Y[:, None], 7 + Y[:, None].float()):
        with pytest.raises(ValueError, match=r"target must hold .*0, 1.*first of which is 7"):
            loss(X[:, :1], target)


@pytest.mark.parametrize("name", [*REGION, "MCCLoss", "SoftBCEWithLogitsLoss"])
@pytest.mark.parametrize("mode", ["binary", "multilabel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_any_values_where_the_peer_computes(name: str, mode: str, dtype: torch.dtype) -> None:
    x = X[:, :1] if mode == "binary" or name == "MCCLoss" else X
    options: dict[str, Any] = {"mode": mode} if name in REGION else {}
    if name.startswith("Soft"):
        options, dtype = {"ignore_index": None}, torch.float32
    target = (x > 0).to(dtype) * 255
    ours, peers = (make(**options)(x, target) for make in (getattr(compat, name), theirs(name)))
    torch.testing.assert_close(ours, peers, equal_nan=True)
