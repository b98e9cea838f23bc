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


@pytest.mark.parametrize("name", [*REGION, "SoftCrossEntropyLoss"])
def test_labels_out_of_range(name: str) -> None:
    options = {"mode": "multiclass"} if name in MODES else {"smooth_factor": 0.1}
    with pytest.raises(ValueError, match=r"class indices in \[0, 3\).*first of which is 3"):
        getattr(compat, name)(**options)(X, Y + 3)


@pytest.mark.parametrize("name", ["FocalLoss", "LovaszLoss"])
@pytest.mark.parametrize("ignored", [None, 1])
def test_labels_that_are_background_of_all_classes(name: str, ignored: int | None) -> None:
    labels = torch.randint(-1, 5, Y.shape, generator=torch.Generator().manual_seed(1))
    same(name, {"mode": "multiclass", "ignore_index": ignored}, X, labels)
    same(name, {"mode": "multiclass", "ignore_index": ignored}, X, labels + 0.5 * (labels == 2))


def same(name: str, options: dict[str, Any], x: torch.Tensor, target: torch.Tensor) -> None:
    """Assert that both give the same value and gradient."""
    found = []
    for make in (getattr(compat, name), theirs(name)):
        leaf = x.clone().requires_grad_()
        value = make(**options)(leaf, target)
        value.backward()
        found.append((value.detach(), leaf.grad))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", [*MODES, "MCCLoss", "SoftBCEWithLogitsLoss"])
@pytest.mark.parametrize("mode", ["binary", "multilabel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
@pytest.mark.parametrize("ignored", [None, 2])
def test_any_values_where_the_peer_computes(
    name: str, mode: str, dtype: torch.dtype, ignored: int | None
) -> None:
    x = X[:, :1] if mode == "binary" or name == "MCCLoss" else X
    if name == "FocalLoss" and mode == "multilabel":
        ignored = None
    options = {"mode": mode} if name in MODES else {}
    options = options if name == "MCCLoss" else {**options, "ignore_index": ignored}  # type: ignore[dict-item]
    dtype = torch.float32 if name.startswith("Soft") else dtype
    target = (x > 0).to(dtype) * 3
    target[0, :, :2] = 2
    same(name, options, x, target)
