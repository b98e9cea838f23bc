"""What confusion_sums promises on every machine: its definition in float64, and the gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from segloss_fast import region_sums
from segloss_fast._check import FLOATING, INTEGER
from segloss_fast.ops.confusion_sums import confusion_sums
from tests.helpers import relative_l2, relative_max
from tests.machines import Machine, on, sized
from tests.ops.confusion_sums_cases import (
    ACTIVATIONS,
    EPSILON,
    KINDS,
    WEIGHTS,
    answer,
    case_of,
    check,
    in_best_dtype,
)
from tests.ops.distance_transform_cases import LAYOUTS, lay_out
from tests.suite.tracing import followed

SIZES = [(1,), (513,), (5, 7), (3, 20, 33)]
ON_DEVICE = (2, 3, 4, 7, 8, 9, 14, 16, 17, 32, 33, 64, 65, 105, 128, 130, 300)  # classes


@sized("classes", [2, 4, 9, 40], interpreted=[2, 8, 9, 16, 17], cuda=ON_DEVICE)
@sized("size", SIZES, interpreted=[(3, 4)], cuda=[(1,), (33, 31), (24, 20, 16)])
@pytest.mark.parametrize("kind", KINDS)
def test_number_of_classes(
    machine: Machine, classes: int, size: tuple[int, ...], kind: str
) -> None:
    odd = "shared" if classes % 2 else "none"
    weight = machine.pick("none", interpreted=odd, cuda=odd)
    for activation in machine.pick(ACTIVATIONS, interpreted=("softmax",), cuda=("softmax",)):
        case = in_best_dtype(machine, case_of(classes, size, kind, weight, activation))
        found, _ = check(machine, case)
        if case.x.dtype == torch.float64 and weight == "none":  # added up from positive terms
            assert relative_l2(found, answer(case)[0]) < 1e-14


@pytest.mark.parametrize(("classes", "kind"), [(105, "dense"), (130, "labels")])
def test_many_classes(machine: Machine, classes: int, kind: str) -> None:
    check(machine, case_of(classes, (3,), kind))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("kind", "weight"), [("ignored", "classes"), ("dense", "shared")])
def test_more_classes_than_a_tile_has(
    machine: Machine, kind: str, weight: str, activation: str
) -> None:
    check(machine, case_of(20, (35,), kind, weight, activation))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
@sized("classes", [3, 12], interpreted=[3, 11], cuda=[3, 11, 105, 130])
def test_options(machine: Machine, classes: int, kind: str, weight: str, activation: str) -> None:
    size = machine.pick((9, 77), interpreted=(13,))
    case = case_of(classes, size, kind, weight, activation)
    check(machine, in_best_dtype(machine, case))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("classes", "size"),
    [
        *((4, size) for size in ((1,), (511,), (513,), (4, 512), (5, 1001))),
        *((10, size) for size in ((31,), (32,), (33,), (2, 81))),
    ],
    ids=str,
)
def test_blocks_and_chunks(machine: Machine, classes: int, size: tuple[int, ...]) -> None:
    case = case_of(classes, size, "ignored")
    found, grad = check(machine, case)
    again, again_grad = case.each(machine.place).solve(machine.impl)
    assert torch.equal(again, found)
    assert torch.equal(again_grad, grad)


@pytest.mark.parametrize("dtype", FLOATING[:3], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@sized("classes", [5], interpreted=[3, 9], cuda=[4, 14, 105])
def test_dtypes_and_layouts(
    machine: Machine, classes: int, layout: str, dtype: torch.dtype
) -> None:
    size = machine.pick((9, 13, 31), interpreted=(1, 3, 8), cuda=(7, 9, 16))
    case = case_of(classes, size, "labels", "classes")
    assert case.weight is not None
    x, weight = lay_out(case.x.to(dtype), layout), lay_out(case.weight, layout)
    labels = lay_out(case.target, "contiguous" if layout == "expanded" else layout)
    check(machine, replace(case, x=x, weight=weight, target=labels))
    dense = replace(case, x=x, weight=weight[:, :1], target=lay_out(case.weight.abs(), layout))
    check(machine, dense)
    if machine.family in ("reference", "native"):  # they are closer, where all is positive
        plain = replace(case, x=x, weight=None, target=labels.to(torch.uint8))
        found, grad = check(machine, plain)
        truth, true_grad = answer(plain)
        assert relative_max(found, truth) < 4 * EPSILON
        assert relative_l2(grad, true_grad) < max(5 * EPSILON, torch.finfo(dtype).eps / 2)


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, *INTEGER, *FLOATING[:-1], pytest.param(FLOATING[-1], marks=followed)],
    ids=str,
)
def test_targets_and_weights_of_any_dtype(machine: Machine, dtype: torch.dtype) -> None:
    for classes, size in ((2, (5, 9)), (10, (3, 4))):
        case = case_of(classes, size)
        case = replace(case, target=case.target % 2)
        expected = case.each(machine.place).solve(machine.impl)
        same = replace(case, target=case.target.to(dtype)).each(machine.place)
        assert all(map(torch.equal, same.solve(machine.impl), expected))
        values = torch.nn.functional.one_hot(case.target, classes).movedim(-1, 1)
        check(machine, replace(case, target=values.to(dtype)))
        if dtype in FLOATING:
            check(machine, replace(case, weight=torch.rand_like(case.x).to(dtype)))
            check(machine, replace(case, weight=torch.rand_like(case.x[:, :1]).to(dtype)))


def test_the_diagonal_is_that_of_region_sums(machine: Machine) -> None:
    case = case_of(4, (40, 41))
    sums = region_sums(case.x, case.target, terms=("tp", "pred", "target"), impl="reference")
    case = case.each(machine.place)
    found = confusion_sums(case.x, case.target, impl=machine.impl).cpu()
    torch.testing.assert_close(found.diagonal(0, 1, 2), sums.tp, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[..., :-1].sum(1), sums.pred, rtol=1e-6, atol=1e-6)
    assert torch.equal(found[..., -1], sums.target)


@on("native", sets=True)
@pytest.mark.parametrize("classes", [4, 12])
def test_instruction_sets(machine: Machine, classes: int) -> None:
    case = case_of(classes, (3, 20, 33))
    found, grad = check(machine, case)
    truth, true_grad = answer(case)
    assert relative_max(found, truth) < 5e-7
    assert relative_l2(grad, true_grad) < 5e-7
