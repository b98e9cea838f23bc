"""The edges of confusion_sums on every machine: what is not finite, out of range, far or empty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast.ops.confusion_sums import confusion_sums, reference
from tests.machines import Machine, on
from tests.ops.confusion_sums_cases import (
    ACTIVATIONS,
    IGNORED,
    Case,
    case_of,
    check,
    far_apart,
)

OUT_OF_RANGE = (
    *((torch.uint8, 255), (torch.int64, 2**32 + 1)),
    *((torch.int8, -1), (torch.int32, -(2**31)), (torch.float32, 1.5), (torch.float16, torch.nan)),
)


def launch(machine: Machine, case: Case, labels: Tensor) -> list[float]:
    """Return what forward says of labels: how many are out of range, and the first of them."""
    forward: Callable[..., tuple[Tensor, Tensor]] = reference.forward
    code: Any = case.activation
    if machine.impl != "reference":
        forward, code = machine.step(), ACTIVATIONS.index(case.activation)
    weight = None if case.weight is None else machine.place(case.weight)
    x, target = machine.place(case.x), machine.place(labels)
    found: list[float] = forward(x, target, weight, code, case.ignore_index)[1].tolist()
    return found


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("classes", [3, 9])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_no_gradient_comes_to_ignored_voxels(
    machine: Machine, classes: int, activation: str, bad: float
) -> None:
    """Not even 0 times what is no number."""
    case = case_of(classes, (13,), "ignored", "shared", activation).each(machine.place)
    leaf = case.x.requires_grad_()
    options: Any = {"voxel_weight": case.weight, "activation": activation}
    sums = confusion_sums(leaf, case.target, ignore_index=IGNORED, impl=machine.asked, **options)
    (grad,) = torch.autograd.grad(sums, leaf, torch.full_like(sums, bad))
    by_voxel, ignored = grad.movedim(1, -1), case.target == IGNORED
    assert not by_voxel[ignored].any()
    assert not by_voxel[~ignored].isfinite().all()


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("classes", [3, 9, 12, 20])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_ignored_voxels_may_hold_anything(machine: Machine, classes: int, bad: float) -> None:
    case = case_of(classes, (13,), "ignored", "classes")
    sums, grad = case.each(machine.place).solve(machine.impl)
    x, weight = case.x.clone(), case.weight
    assert weight is not None
    x[(case.target == IGNORED)[:, None].expand_as(x)] = bad
    weight = weight.masked_fill((case.target == IGNORED)[:, None], bad)
    case = replace(case, x=x, weight=weight).each(machine.place)
    found, found_grad = case.solve(machine.impl)
    assert torch.equal(found, sums)
    assert torch.equal(found_grad, grad)
    nothing = replace(case, target=torch.full_like(case.target, IGNORED))
    for tensor in nothing.solve(machine.impl):
        assert not tensor.any()


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("classes", [3, 9, 12, 20])
def test_logits_that_are_not_finite(machine: Machine, classes: int) -> None:
    case = case_of(classes, (6,))
    x = case.x.clone()
    x[0, :-1, 0] = -torch.inf  # a softmax still
    x[0, 1, 1] = -torch.inf
    x[0, :, 2] *= 1e4

    def solve() -> tuple[Tensor, Tensor]:
        return replace(case, x=x).each(machine.place).solve(machine.impl)

    check(machine, replace(case, x=x))
    clean, clean_grad = solve()
    for value in (torch.nan, torch.inf):
        x[1, 1, 3] = value
        label = int(case.target[1, 3])
        sums, grad = solve()
        assert sums[1, label, :-1].isnan().all()
        assert torch.equal(sums[0], clean[0])
        assert torch.equal(sums[..., -1], clean[..., -1])
        assert grad[1, :, 3].isnan().all()
        grad[1, :, 3] = clean_grad[1, :, 3] = 0
        assert torch.equal(grad, clean_grad)
    x[1, :, 3] = -torch.inf
    assert solve()[1][1, :, 3].isnan().all()


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("classes", "size", "dtype", "bad"),
    [
        *((3, (19, 71), *kind) for kind in OUT_OF_RANGE),
        *((9, (5, 15), *kind) for kind in OUT_OF_RANGE[:2]),
        (20, (5, 13), *OUT_OF_RANGE[1]),
    ],
    ids=str,
)
def test_labels_out_of_range(
    machine: Machine, classes: int, size: tuple[int, ...], dtype: torch.dtype, bad: float
) -> None:
    case = case_of(classes, size, weight="classes")
    labels = (case.target % 3).to(dtype)
    labels[1, 3, 7], labels[1, 4, 12] = bad, 99
    known = torch.tensor(bad, dtype=torch.float64).expand(1)
    for target in (labels, labels.mT.contiguous().mT):
        count, first = launch(machine, case, target)
        assert count == 2
        torch.testing.assert_close(
            torch.tensor([first], dtype=torch.float64), known, rtol=0, atol=0, equal_nan=True
        )
    if machine.impl != "reference":
        x, target, weight = (
            machine.place(t) for t in (case.x, labels, case.weight) if t is not None
        )
        ones = machine.place(torch.ones(2, classes, classes + 1))
        grad = machine.step("backward")(ones.double(), x, target, weight, 0, None)
        assert not grad[1, :, 3, 7].any()
    count, _ = launch(machine, replace(case, weight=None, ignore_index=99), labels)
    assert count == 1
    if machine.device == "cpu":
        with pytest.raises(ValueError, match="got 1 other values"):
            confusion_sums(case.x, labels, ignore_index=99, impl=machine.impl)
    fine = Case(case.x[:1], case.target[:1], ignore_index=2**40)
    assert launch(machine, fine, labels[:1]) == [0, 0]


@on("reference", "native", "interpreted")  # a device marks the sums
def test_the_first_label_out_of_range_is_named(machine: Machine) -> None:
    case = case_of(3, (4, 5))
    x, labels = case.x, case.target
    labels[0, 1, 2], labels[1, 0, 0] = -4, 3
    with pytest.raises(ValueError, match="got 2 other values, the first of which is -4"):
        confusion_sums(x, labels, impl=machine.impl)


def test_bad_arguments() -> None:
    case = case_of(3, (4, 5))
    x, labels = case.x.double(), case.target
    with pytest.raises(ValueError, match=r"input must have at least two, got shape \[2, 1, 4, 5\]"):
        confusion_sums(x[:, :1], labels)
    with pytest.raises(ValueError, match="activation must be one of"):
        confusion_sums(x, labels, activation="relu")
    with pytest.raises(ValueError, match="target must be class indices"):
        confusion_sums(x, labels[:1])
    with pytest.raises(TypeError, match="voxel_weight must"):
        confusion_sums(x, labels, voxel_weight=labels[:, None])
    with pytest.raises(TypeError, match="ignore_index must"):
        confusion_sums(x, labels, ignore_index=1.5)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="impl='triton' is not available here"):
        confusion_sums(x, labels, impl="triton")


@on("reference", "native", "interpreted")  # a device has to hold what lies between
@pytest.mark.parametrize("what", ["x", "target", "weight"])
def test_offsets_past_2_to_the_31(machine: Machine, what: str) -> None:
    far, near = far_apart(what)
    for found, expected in zip(far.solve(machine.impl), near.solve(machine.impl), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0, 5), (2, 12, 0)], ids=str)
def test_empty(machine: Machine, shape: Sequence[int]) -> None:
    x = torch.empty(shape, device=machine.device).requires_grad_()
    labels = torch.zeros(shape[0], *shape[2:], device=machine.device)
    sums = confusion_sums(x, labels, impl=machine.impl)
    assert sums.shape == (shape[0], shape[1], shape[1] + 1)
    assert not sums.any()
    sums.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == shape
