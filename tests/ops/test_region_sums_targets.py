"""What region_sums promises on every machine of targets, weights, and several inputs at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast import region_sums_multi
from segloss_fast._check import FLOATING, INTEGER
from segloss_fast.ops.region_sums import TERMS
from tests.helpers import relative_l2, relative_max
from tests.machines import Machine, sized
from tests.ops import definition
from tests.ops.one_class_cases import BAD_LABELS, BAD_VALUES, IGNORED, soft_mask, turned
from tests.ops.region_sums_cases import (
    EPSILON,
    KINDS,
    LOSS_TERMS,
    Case,
    case_of,
    check,
    check_refused,
    gradient_of,
    in_best_dtype,
    launch,
    lay_out,
    options_of,
    solve,
    solved_alike,
    sums,
)

# What labels of three classes may be instead of them, by dtype.
OUT_OF_RANGE = [
    *((torch.uint8, 255), (torch.int8, -1), (torch.int8, -128), (torch.int16, 3)),
    *((torch.int32, -(2**31)), (torch.int32, -1)),
    *((torch.int64, bad) for bad in (2**32, 2**32 + 1, 2**40, -(2**63))),
    *((torch.float16, 1.5), (torch.float16, -torch.inf), (torch.float32, 0.5)),
    *((torch.float32, bad) for bad in (1.5, torch.inf, torch.nan)),
    *((torch.float64, -0.5), (torch.float64, torch.inf)),
]


@pytest.mark.parametrize("dtype", [*INTEGER, *FLOATING], ids=str)
def test_targets_of_any_dtype(machine: Machine, dtype: torch.dtype) -> None:
    """Labels, with and without a dimension for the one channel, and values of each class."""
    classes = 2 if dtype == torch.bool else 5
    case = in_best_dtype(
        machine, case_of((2, classes, 5, 9), terms=machine.pick(TERMS, interpreted=LOSS_TERMS))
    )
    labels = case.target
    typed = labels.to(dtype)
    rows, grad = solved_alike(
        machine, case, replace(case, target=typed), replace(case, target=typed[:, None])
    )
    values = definition.one_hot(labels, classes)[0]
    dense, dense_grad = solved_alike(
        machine, replace(case, target=values), replace(case, target=values.to(dtype))
    )
    assert relative_max(dense, rows) < 5 * EPSILON
    assert relative_l2(dense_grad, grad) < 5 * EPSILON
    ignored = 1 if dtype == torch.bool else 100
    labels[0, :3] = ignored
    typed = labels.to(dtype)
    case = case.having(ignore_index=ignored)
    solved_alike(machine, case, replace(case, target=typed))
    if dtype in INTEGER[1:]:  # an ignored label that the dtype has not, but of which it has a part
        typed[0, :3] = 0
        case = replace(case, target=typed)
        others = [case.having(ignore_index=index) for index in (100 + 2**40, -(2**63))]
        solved_alike(machine, case, *others)


@sized("dtype", INTEGER[1:], interpreted=[torch.uint8])
@pytest.mark.parametrize("ignore_index", [-1, 255, 256, 258, 2**40, 2**40 + 1, -(2**63)])
def test_an_ignore_index_that_no_label_can_have(
    machine: Machine, dtype: torch.dtype, ignore_index: int
) -> None:
    case = in_best_dtype(machine, case_of((2, 3, 4, 5), terms=("tp", "target", "weight")))
    case = replace(case, target=case.target.to(dtype))
    solved_alike(machine, case, case.having(ignore_index=ignore_index))
    if dtype == torch.uint8 and ignore_index != 255:
        case.target[0, 0, 0] = 255
        check_refused(machine, case.having(ignore_index=ignore_index), 1, "255")


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, *FLOATING], ids=str)
@pytest.mark.parametrize("shared", [True, False])
def test_weights_of_any_dtype(machine: Machine, dtype: torch.dtype, shared: bool) -> None:
    case = in_best_dtype(machine, case_of((2, 3, 5, 9), terms=LOSS_TERMS))
    weight = torch.randn(2, 1 if shared else 3, 5, 9) * 3
    weight = weight.to(dtype) if dtype.is_floating_point else weight.abs().to(dtype)
    rows, grad = check(machine, replace(case, weight=weight), signed=True)
    numbers, numbers_grad = solve(machine, replace(case, weight=weight.double()))
    assert torch.equal(numbers, rows)
    assert torch.equal(numbers_grad, grad)


def test_weights_of_bytes_in_several_inputs(machine: Machine) -> None:
    case = in_best_dtype(machine, case_of((2, 3, 5, 7), "ignore"))
    for channels in (1, 3):
        weight = (torch.rand(2, channels, 5, 7) * 3).to(torch.uint8)
        one = replace(case, weight=weight).each(machine.place)
        (both,) = region_sums_multi(
            [one.x],
            [one.target],
            voxel_weights=[one.weight],  # type: ignore[list-item]
            terms=TERMS,
            gamma=2.0,
            ignore_index=255,
            impl=machine.asked,
        )
        assert torch.equal(both.rows, sums(machine, one))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("dtype", "bad"), OUT_OF_RANGE, ids=str)
def test_labels_out_of_range(machine: Machine, dtype: torch.dtype, bad: float) -> None:
    size = machine.pick((97, 101), interpreted=(37, 41), shim=(37, 41))
    labels = torch.zeros((2, *size), dtype=dtype)
    labels[1, 20, 7], labels[1, 30, 0] = bad, 4
    case = Case(torch.randn(2, 3, *size), labels, None, options_of(("tp", "target")))
    shown = f"{float(bad):.16g}"
    for target in (labels, labels.mT.contiguous().mT):
        check_refused(machine, replace(case, target=target), 2, shown)
    check_refused(machine, case.having(ignore_index=4), 1, shown)
    assert launch(machine, replace(case, x=case.x[:1], target=labels[:1]))[1] == [0, 0]
    labels[1, 30, 0] = 2
    check_refused(machine, case.having(ignore_index=0), 1, shown)
    if bad == bad and abs(bad) < 2**62 and bad == int(bad):
        assert launch(machine, case.having(ignore_index=int(bad)))[1] == [0, 0]
    # The gradient is that of other voxels, and nothing that is not there.
    case = case.each(machine.place)
    if machine.impl != "reference":
        ones = torch.ones(2, 2, 3, dtype=torch.float64, device=machine.device)
        assert gradient_of(machine, ones, case).isfinite().all()


def test_the_first_of_many_labels_out_of_range_is_named(machine: Machine) -> None:
    """However many items, chunks of voxels and inputs there are."""
    labels = torch.zeros((3, 3000), dtype=torch.int64)
    labels[1, 5], labels[1, 2990], labels[2, 0] = 40, 41, 42
    case = Case(torch.zeros(3, 2, 3000), labels, None, options_of(("tp",)))
    check_refused(machine, case, 3, "40")
    fine = replace(case, x=case.x[:1], target=labels[:1])
    rows, invalid = launch(machine, fine, fine, case, case)
    assert rows.isnan().all() or machine.family == "native"  # which always raises
    assert invalid == [6, 40]
    if machine.device == "cpu":
        with pytest.raises(ValueError, match=r"got 3 other values, the first of which is 40$"):
            sums(machine, case)
        with pytest.raises(ValueError, match="got 3 other values, the first of which is 40"):
            region_sums_multi([fine.x, case.x], [fine.target, labels], impl=machine.asked)


def test_an_infinite_label_is_not_the_ignored_one(machine: Machine) -> None:
    """In half precision an ignored label of 2^31 would be infinite, and 2049 would be 2048."""
    for ignored in (2**31, 2049, -(2**40)):
        for label, shown in ((torch.inf, "inf"), (2048.0, "2048")):
            labels = torch.tensor([[0.0, 1.0, label]], dtype=torch.float16)
            options = options_of(("tp",), ignore_index=ignored)
            check_refused(machine, Case(torch.zeros(1, 3, 3), labels, None, options), 1, shown)


def test_an_absent_class_and_terms_without_gradient(machine: Machine) -> None:
    case = case_of((2, 4, 5, 7), terms=("weight", "target_sq", "target"))
    rows, grad = check(machine, in_best_dtype(machine, replace(case, target=case.target % 3)))
    assert not rows[2, :, 3].any()
    assert not grad.any()


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_values_of_one_class(machine: Machine, dtype: torch.dtype) -> None:
    case = soft_mask(machine.pick((37, 41), interpreted=(17, 41)), dtype)
    weight = torch.rand(case.values.shape, generator=torch.Generator().manual_seed(1)).double()
    plain = Case(case.clean, case.values, weight * case.kept, options_of(TERMS, "sigmoid"))
    wanted, true_grad = check(machine, in_best_dtype(machine, plain))
    for target in (case.target, case.target[:, 0], turned(case.target)):
        same = Case(case.input, target, weight, options_of(TERMS, "sigmoid", ignore_index=IGNORED))
        rows, grad = solve(machine, in_best_dtype(machine, same))
        assert relative_max(rows, wanted) < 10 * EPSILON
        assert relative_l2(grad, true_grad * case.kept) < 10 * EPSILON
        assert not grad[~case.kept].any()


@pytest.mark.parametrize(("bad", "shown"), BAD_VALUES)
def test_values_outside_of_zero_to_one(machine: Machine, bad: float, shown: str) -> None:
    mask = soft_mask((37, 41))
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        target = mask.values.to(dtype)
        target[1, 0, 20, 7], target[1, 0, 36, 40] = bad, 3
        for ignored, number in ((None, 2), (3, 1)):
            for t in (target, turned(target)):
                options = options_of(("tp", "nll"), "sigmoid", ignore_index=ignored)
                check_refused(machine, Case(mask.clean.float(), t, None, options), number, shown)


@pytest.mark.parametrize(("dtype", "bad"), BAD_LABELS)
def test_labels_of_one_class(machine: Machine, dtype: torch.dtype, bad: int) -> None:
    mask = soft_mask(machine.pick((37, 41), interpreted=(17, 41)))
    labels = mask.values[:, 0].round().to(dtype)
    case = Case(mask.clean, labels, None, options_of(TERMS, "sigmoid"))
    case = in_best_dtype(machine, case)
    check(machine, case)
    labels[1, 7, 7] = bad
    check_refused(machine, case, 1, str(bad))
    rows, invalid = launch(machine, case.having(ignore_index=bad))
    assert rows.isfinite().all()
    assert invalid == [0, 0]


@pytest.mark.parametrize("kind", KINDS)
@sized("dtype", [torch.float32, torch.float16], interpreted=[torch.float32], shim=[torch.float32])
@sized("number", [5], interpreted=[3], shim=[2, 8, 9, 17])
def test_several_inputs_equal_one_call_each(
    machine: Machine, kind: str, dtype: torch.dtype, number: int
) -> None:
    sizes = [(16, 24, 9), (8, 12, 5), (97,), (1, 1), (0, 3)]
    sizes = machine.pick(sizes, interpreted=[(4, 6), (2, 3), (17,)], shim=[(9, 8, 7), *sizes[2:]])
    cases = []
    for i in range(number):
        case = case_of((1 + i % 3, 3, *sizes[i % len(sizes)]), kind, TERMS, ce_activation="sigmoid")
        x = lay_out(case.x.to(dtype), "channels_last") if i % 2 else case.x.to(dtype)
        cases.append(replace(case, x=x.detach()).each(machine.place))
    inputs = [case.x.requires_grad_() for case in cases]
    weights: Any = [case.weight for case in cases]
    o = cases[0].options
    found = region_sums_multi(
        inputs,
        [case.target for case in cases],
        terms=o.terms,
        ce_activation=o.ce_activation,
        gamma=o.gamma,
        voxel_weights=None if kind == "labels" else weights,
        ignore_index=o.ignore_index,
        impl=machine.asked,
    )
    alone = [sums(machine, case) for case in cases]
    total, true_total = (
        [derive_total(rows) for rows in r] for r in ([s.rows for s in found], alone)
    )
    grads = torch.autograd.grad(torch.stack(total).sum(), inputs)
    true_grads = torch.autograd.grad(torch.stack(true_total).sum(), inputs)
    for record, rows, case, grad, true in zip(found, alone, cases, grads, true_grads, strict=True):
        assert record.rows.shape == (len(TERMS), *case.x.shape[:2])
        torch.testing.assert_close(record.rows, rows, rtol=1e-6, atol=1e-6)
        if machine.family != "shim":  # whose chunks depend on what else there is
            assert torch.equal(record.rows, rows)
        assert machine.impl == "reference" or grad.stride() == case.x.stride()
        assert torch.equal(grad, true)


def derive_total(rows: Tensor) -> Tensor:
    """Return a sum of rows that weighs each differently."""
    weights = torch.linspace(1, 2, rows.numel(), dtype=rows.dtype, device=rows.device)
    return (rows * weights.view_as(rows)).sum()
