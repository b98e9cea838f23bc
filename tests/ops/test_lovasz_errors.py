"""What lovasz refuses, how it says so, and which method it takes."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import segloss_fast
from segloss_fast import LovaszSums, lovasz, lovasz_counts
from segloss_fast.ops.lovasz import contract
from segloss_fast.ops.lovasz.op import kernels


def inputs(classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, classes, 4, 5, generator=generator)
    return x, torch.randint(0, max(classes, 2), (2, 4, 5), generator=generator)


@pytest.mark.parametrize(
    ("keywords", "error", "text"),
    [
        ({"activation": "probabilities"}, ValueError, "activation must be one of 'softmax'"),
        ({"method": "bins"}, ValueError, "method must be one of 'auto', 'sort', 'histogram'"),
        ({"bins": 1000}, ValueError, "bins must be 9 to 16 times a power of two"),
        ({"bins": 4096.0}, TypeError, "bins must be an int or None, got float"),
        ({"per_image": 1}, TypeError, "per_image must be True or False"),
        ({"cross_entropy": "yes"}, TypeError, "cross_entropy must be True or False"),
        ({"ignore_index": 1.5}, TypeError, "ignore_index must be an int or None"),
        ({"impl": "cuda"}, ValueError, "impl must be one of"),
        ({"sync": 3}, TypeError, "sync must be True, False, 'auto', a process group"),
        ({"shards": 1}, TypeError, "shards must be True or False"),
        ({"sync": True, "per_image": True}, ValueError, "sync needs per_image=False"),
        ({"sync": True, "method": "sort"}, ValueError, "method must be 'histogram' or 'auto'"),
        ({"sync": True}, RuntimeError, "torch.distributed is not initialised"),
    ],
)
def test_bad_options(keywords: dict[str, Any], error: type[Exception], text: str) -> None:
    x, target = inputs()
    with pytest.raises(error, match=text):
        lovasz(x, target, **keywords)
    shared = {"activation", "bins", "per_image", "ignore_index", "impl"}
    if set(keywords) <= shared:
        with pytest.raises(error, match=text):
            lovasz_counts(x, target, **keywords)


def test_bad_tensors() -> None:
    x, target = inputs()
    cases: tuple[tuple[Any, Any, type[Exception], str], ...] = (
        (x[0, 0], target, ValueError, "input must be"),
        (x.long(), target, TypeError, "input must have one of the dtypes"),
        ([1.0], target, TypeError, "input must be a tensor, got list"),
        (x[:, :1], target, ValueError, "softmax of one class"),
        (x[:, :0], target, ValueError, "at least one class"),
        (x, target[:, 1:], ValueError, r"target must be class indices of shape \[2, 4, 5\]"),
        (x, target.to(torch.complex64), TypeError, "target must have one of the dtypes"),
        (x, None, TypeError, "target must be a tensor, got NoneType"),
        (x, target.to("meta"), ValueError, "target must be on the device of input"),
    )
    for bad, bad_target, error, text in cases:
        for call in (lovasz, lovasz_counts):
            with pytest.raises(error, match=text):
                call(bad, bad_target)
    with pytest.raises(
        ValueError, match=r"ignore_index goes with class indices.*\[2, 3, 4, 5\]\)$"
    ):
        lovasz(x, torch.rand_like(x), ignore_index=1)


def test_what_is_not_there_says_so() -> None:
    x, target = inputs()
    for b in segloss_fast.backends():
        if (b.primitive, b.device, b.available) == ("lovasz", "cpu", False):
            with pytest.raises(RuntimeError, match=f"impl='{b.impl}' is not available here"):
                lovasz(x, target, impl=b.impl)


def test_auto_sorts_small_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []

    def note(*arguments: object, **keywords: object) -> LovaszSums:
        used.append("sort")
        return LovaszSums(*[torch.zeros(1)] * 5)

    monkeypatch.setattr(contract, "_sort", note)
    for voxels, per_image, sorts in ((2**17, False, False), (2**17 - 1, False, True)):
        x = torch.zeros(2, 1, voxels)
        target = torch.zeros(2, voxels, dtype=torch.uint8)
        used.clear()
        lovasz(x, target, activation="hinge", per_image=per_image, bins=72)
        assert bool(used) == sorts
    used.clear()
    lovasz(torch.zeros(2, 1, 2**17), torch.zeros(2, 2**17), activation="hinge", per_image=True)
    assert used


def test_kernels_without_a_sort_take_the_histogram(monkeypatch: pytest.MonkeyPatch) -> None:
    x, target = inputs()
    monkeypatch.setattr(
        kernels, "why_not", lambda impl, device, dtype, by: "no sort" if by == "sort" else None
    )
    choose = functools.partial(contract._choose, input=x, per_image=False)
    assert choose("triton", "auto", synchronised=False) == ("triton", "histogram")
    assert choose("reference", "auto", synchronised=False) == ("reference", "sort")
    assert choose("reference", "auto", synchronised=True) == ("reference", "histogram")
    assert choose("auto", "sort", synchronised=False) == ("reference", "sort")
    with pytest.raises(RuntimeError, match="no sort"):
        choose("triton", "sort", synchronised=False)
    assert target.dim() == 3
