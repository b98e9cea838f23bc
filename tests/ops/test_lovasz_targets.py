"""What lovasz promises on every machine of targets: labels, values, ignored and wrong ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from segloss_fast import lovasz, lovasz_counts
from segloss_fast._check import FLOATING, INTEGER
from segloss_fast.ops.lovasz.options import ACTIVATIONS, Options
from tests.machines import Machine, sized
from tests.ops.lovasz_cases import (
    METHODS,
    by_activation,
    by_method,
    count,
    options_of,
    require,
    scan,
    solve,
)
from tests.ops.lovasz_samples import sample
from tests.ops.one_class_cases import BAD_LABELS, BAD_VALUES, IGNORED, soft_mask, turned

# Targets are read before anything is activated.
of_dtypes = sized("activation", ACTIVATIONS, interpreted=ACTIVATIONS[:1], shim=ACTIVATIONS[:1])


def inputs(classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, classes, 4, 5, generator=generator)
    return x, torch.randint(0, max(classes, 2), (2, 4, 5), generator=generator)


def solved_alike(
    machine: Machine, method: str, x: Tensor, o: Options, target: Tensor, *others: Tensor
) -> None:
    """Assert that all targets give the same."""
    expected = solve(machine, method, x, target, o).tensors
    for other in others:
        found = solve(machine, method, x, other, o).tensors
        for name, value in found.items():
            assert torch.equal(value, expected[name]), name


@of_dtypes
@by_method
@pytest.mark.parametrize("dtype", [*INTEGER, *FLOATING], ids=str)
def test_targets_of_any_dtype(
    machine: Machine, method: str, activation: str, dtype: torch.dtype
) -> None:
    """Labels, with and without a dimension for the one channel, and values of each class."""
    require(machine, method)
    x, target = inputs(2 if dtype == torch.bool else 3)
    o = options_of(activation)
    values = torch.nn.functional.one_hot(target, x.shape[1]).movedim(-1, 1)
    solved_alike(machine, method, x, o, values, values.to(dtype))
    solved_alike(machine, method, x, o, target, target.to(dtype))
    # The reference adds in another order; C++ has loops of its own for the labels of a softmax.
    rounded = machine.impl == "reference" or (machine.impl, activation) == ("native", "softmax")
    expected, found = (solve(machine, method, x, t, o).tensors for t in (target, values))
    for name, value in found.items():
        close = {"rtol": 2e-6, "atol": 1e-8} if rounded else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(value, expected[name], **close)
    target[0, :2] = ignored = 1 if dtype == torch.bool else 100
    solved_alike(machine, method, x, replace(o, ignore_index=ignored), target, target.to(dtype))
    tensors = machine.place(x), machine.place(target.to(dtype))
    flat, channel = (
        lovasz(
            tensors[0],
            labels,
            activation=activation,
            method=method,
            ignore_index=ignored,
            impl=machine.asked,
        ).loss
        for labels in (tensors[1], tensors[1][:, None])
    )
    assert torch.equal(flat, channel)


@of_dtypes
@by_method
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, *FLOATING], ids=str)
def test_dense_targets_are_foreground_above_one_half(
    machine: Machine, method: str, activation: str, dtype: torch.dtype
) -> None:
    require(machine, method)
    x, _ = inputs()
    soft = torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    soft[0, 0, 0, 0] = 0.5
    target = soft.to(dtype) if dtype in FLOATING[2:] else (soft > 0.5).to(dtype)
    o = options_of(activation)
    solved_alike(machine, method, x, o, (soft > 0.5).double(), target)
    found = lovasz(
        machine.place(x),
        machine.place(target),
        activation=activation,
        method=method,
        impl=machine.asked,
    )
    foreground = (soft > 0.5).transpose(0, 1).flatten(1).sum(1)
    assert torch.equal(found.target[0].cpu(), foreground.double())


def test_a_dense_target_is_compared_in_its_own_dtype(machine: Machine) -> None:
    o = options_of("sigmoid", cross_entropy=False)
    x = torch.zeros(1, 2, 4)
    values = torch.tensor([0.5, 0.5 + 1e-12, torch.nan, 7.0], dtype=torch.float64)
    target = values.expand(1, 2, 4)
    assert count(machine, x, target, o)[0][0].sum(-1).tolist() == [[[2, 2], [2, 2]]]
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        counts, _, _ = count(machine, x, target.to(dtype), o)
        assert counts[0].sum(-1).tolist() == [[[3, 1], [3, 1]]]


@pytest.mark.parametrize("activation", ["sigmoid", "hinge"])
@by_method
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_values_of_one_class(
    machine: Machine, method: str, activation: str, dtype: torch.dtype
) -> None:
    """They are the labels of what is above one half."""
    require(machine, method)
    case = soft_mask(machine.pick((37, 41), interpreted=(17, 41)), dtype)
    labels = torch.where(case.kept, (case.values > 0.5).long(), IGNORED)[:, 0]
    x, o = case.input.float(), options_of(activation, ignore_index=IGNORED)
    solved_alike(machine, method, x, o, labels, case.target, turned(case.target))
    assert not solve(machine, method, x, case.target, o).grad[~case.kept].any()
    if method == METHODS[0]:
        return
    for bad, shown in BAD_VALUES:
        target = case.values.to(dtype)
        target[1, 0, 7, 7], target[1, 0, 16, 40] = bad, 3
        for ignored, number in ((None, 2), (3, 1)):
            which = options_of(activation, ignore_index=ignored)
            _, rows, invalid = count(machine, case.clean.float(), target, which)
            assert marks(machine, rows)
            assert [invalid[0].item(), f"{invalid[1].item():.16g}"] == [number, shown]


def marks(machine: Machine, rows: Tensor) -> bool:
    """Whether rows show labels out of range, where that is the kernels' task, not the caller's."""
    return machine.impl != "triton" or bool(rows[0].isnan().all())


@pytest.mark.parametrize(("dtype", "bad"), BAD_LABELS)
def test_labels_of_one_class(machine: Machine, dtype: torch.dtype, bad: int) -> None:
    case = soft_mask(machine.pick((37, 41), interpreted=(17, 41)))
    labels, x = case.values[:, 0].round().to(dtype), case.clean.float()
    counts, _, invalid = count(machine, x, labels, options_of("sigmoid"))
    assert counts[0].sum(-1).tolist() == [[[int((labels == c).sum()) for c in (0, 1)]]]
    assert invalid.tolist() == [0, 0]
    labels[1, 7, 7] = bad
    _, rows, invalid = count(machine, x, labels, options_of("sigmoid"))
    assert marks(machine, rows)
    assert invalid.tolist() == [1, bad]
    o = options_of("sigmoid", ignore_index=bad)
    assert count(machine, x, labels, o)[2].tolist() == [0, 0]


OUT_OF_RANGE = [
    *((torch.uint8, 255), (torch.int8, -1), (torch.int8, -128), (torch.int16, 3)),
    *((torch.int64, bad) for bad in (2**32, 2**32 + 1, 2**40, -(2**63))),
    *((torch.float16, 1.5), (torch.float32, 0.5), (torch.float32, torch.nan)),
    (torch.float64, -0.5),
]


@pytest.mark.parametrize(("dtype", "bad"), OUT_OF_RANGE, ids=str)
@sized("classes", [3], interpreted=[3, 130])
def test_labels_out_of_range(
    machine: Machine, classes: int, dtype: torch.dtype, bad: float
) -> None:
    if classes == 130 and bad not in (255, -1, 2**40):
        pytest.skip("not out of range, or once is enough")
    space = machine.pick((7, 41), shim=(2, 700)) if classes == 3 else (3, 9)
    labels = torch.zeros(2, *space, dtype=dtype)
    x, o = torch.randn(2, classes, *space), options_of(bits=2)
    labels[1, -1, 7] = bad
    for target in (labels, labels.mT.contiguous().mT):
        counts, rows, invalid = count(machine, x, target, o)
        assert marks(machine, rows)
        np.testing.assert_equal(invalid.tolist(), [1, bad])
        # Background of all classes.
        assert counts[0].sum((-1, -2)).unique().tolist() == [labels.numel()]
        assert counts[0, 0, :, 1].sum().item() == labels.numel() - 1
        if machine.impl == "triton":
            assert scan(machine, counts, rows, o)[0].isnan().all()
        for method in METHODS if machine.impl != "triton" else ():
            assert solve(machine, method, x, target, o).grad.isfinite().all()
    _, rows, invalid = count(machine, x[:1], labels[:1], o)
    assert invalid.tolist() == [0, 0]
    assert rows.isfinite().all()
    if classes == 3:
        labels[0, 0, 3] = 9  # out of range, too, and earlier
        assert count(machine, x, labels, o)[2].tolist() == [2, labels[0, 0, 3].item()]


@by_method
def test_labels_out_of_range_are_named(machine: Machine, method: str) -> None:
    """By an error; a device has a loss of NaN instead."""
    require(machine, method)
    x, target = inputs()
    target[1, 2, 3], target[1, 3, 0] = 7, -2
    x, target = machine.place(x), machine.place(target)
    named, impl = {"method": method, "impl": machine.asked}, machine.asked
    if machine.device != "cpu":
        assert lovasz(x, target, **named).loss.isnan().all()  # type: ignore[arg-type]
        return
    with pytest.raises(ValueError, match=r"\[0, 3\).*got 2 other values, the first of which is 7"):
        lovasz(x, target, **named)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got 1 other values, the first of which is -2"):
        lovasz(x, target, ignore_index=7, **named)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got 2 other values"):
        lovasz_counts(x, target, impl=impl)


@by_activation
@by_method
def test_labels_that_cannot_hold_the_ignored_one(
    machine: Machine, method: str, activation: str
) -> None:
    require(machine, method)
    x, target = inputs()
    plain = solve(machine, method, x, target, options_of(activation))
    o = options_of(activation, ignore_index=-256)  # 0, wrapped around
    found = solve(machine, method, x, target.to(torch.uint8), o)
    assert torch.equal(found.loss, plain.loss)
    assert torch.equal(found.grad, plain.grad)


@by_activation
@by_method
@pytest.mark.parametrize("per_image", [False, True])
def test_everything_ignored(
    machine: Machine, method: str, activation: str, per_image: bool
) -> None:
    require(machine, method)
    x, target = inputs()
    x[0, 1] = torch.nan
    target[:] = 9
    x, target = machine.place(x).requires_grad_(), machine.place(target)
    sums = lovasz(
        x,
        target,
        activation=activation,
        method=method,
        per_image=per_image,
        ignore_index=9,
        cross_entropy=True,
        impl=machine.asked,
    )
    assert sums.cross_entropy is not None
    assert (sums.loss == 0).all()
    assert (sums.cross_entropy == 0).all()
    assert (sums.weight == 0).all()
    assert not sums.present.any()
    (grad,) = torch.autograd.grad((sums.loss + sums.cross_entropy).sum(), x)
    assert (grad == 0).all()


@by_activation
@by_method
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_ignored_voxels_may_hold_anything(
    machine: Machine, method: str, activation: str, bad: float
) -> None:
    require(machine, method)
    x, target, ignored = sample((2, 4, 5, 7), "ignore", activation, torch.float32)
    o = options_of(activation, ignore_index=ignored)
    clean = solve(machine, method, x, target, o).tensors
    x = x.masked_fill((target == 255)[:, None], bad)
    for name, value in solve(machine, method, x, target, o).tensors.items():
        assert torch.equal(value, clean[name]), name
    nothing = solve(machine, method, x, torch.full_like(target, 255), o)
    assert not any(value.any() for value in nothing.tensors.values())
