"""What region_sums promises on every machine: every term of every input, and the gradient."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from segloss_fast._check import FLOATING
from segloss_fast.ops.region_sums import TERMS
from tests.helpers import relative_l2, relative_max
from tests.machines import Machine, on, sized
from tests.ops.region_sums_cases import (
    EPSILON,
    KINDS,
    LAYOUTS,
    LOSS_TERMS,
    OVERLAP,
    Case,
    by_definition,
    case_of,
    check,
    derive,
    in_best_dtype,
    lay_out,
    options_of,
    solve,
    strided,
    sums,
)
from tests.ops.samples import ACTIVATIONS
from tests.suite.tiers import few
from tests.suite.tracing import followed

by_activation = pytest.mark.parametrize(("activation", "ce_activation"), ACTIVATIONS)
GAMMAS = (0.0, 0.7, 1.0, 2.0, 3.5)
# Neighbours in the list come first: a few of them cover all terms.
PAIRS = sorted(
    itertools.combinations(TERMS, 2), key=lambda p: TERMS.index(p[1]) - TERMS.index(p[0])
)
# The sets of terms with kernels of their own, and all of them.
SETS = [
    (OVERLAP, "softmax"),
    (("pred", "nll", "target", "tp"), "softmax"),
    (("target", "nll"), "softmax"),
    ((*OVERLAP, "focal"), "softmax"),
    ((*OVERLAP, "nll", "nll_neg"), "sigmoid"),
    ((*OVERLAP, "focal", "focal_neg"), "sigmoid"),
    (TERMS, "softmax"),
    (TERMS, "sigmoid"),
]
# With every kind of target, or with labels alone.
NUMBERS = [
    *itertools.product((1, 2, 4, 14, 32, 105), KINDS),
    *((classes, "labels") for classes in (3, 8, 33, 300)),
    pytest.param((200, "labels"), marks=followed),
    *((200, kind) for kind in KINDS[1:]),
]


@by_activation
@pytest.mark.parametrize("kind", KINDS)
def test_every_term_equals_its_definition(
    machine: Machine, activation: str, ce_activation: str, kind: str
) -> None:
    place = ACTIVATIONS.index((activation, ce_activation))
    gammas = machine.pick(GAMMAS, interpreted=GAMMAS[place:][:1], cuda=(0.0, 0.7, 2.0))
    for gamma in gammas:
        case = case_of((2, 5, 3, 7, 11), kind, TERMS, activation, ce_activation, gamma)
        case = in_best_dtype(machine, case) if machine.family != "cuda" else case.to(torch.float32)
        if machine.family == "cuda" and activation == "probabilities":
            # 1 - p of a rounded p near 1 amplifies nothing but the rounding.
            case = replace(case, x=case.x.clamp(0.01, 0.99))
        rows, _ = check(machine, case, signed=True)
        bound = 2e-12 if case.x.dtype == torch.float64 else 10 * EPSILON
        for name, row, true_row in zip(TERMS, rows, by_definition(case), strict=True):
            assert relative_max(row, true_row) < bound, name


@on("reference", "native")
@by_activation
@pytest.mark.parametrize("kind", ["ignore", "dense"])
def test_gradient_of_every_term(
    machine: Machine, activation: str, ce_activation: str, kind: str
) -> None:
    case = case_of((2, 3, 5), kind, TERMS, activation, ce_activation, 1.7)
    for term in TERMS:

        def rows(x: Tensor, term: str = term) -> Tensor:
            return sums(machine, replace(case.having(terms=(term,)), x=x))

        assert torch.autograd.gradcheck(rows, (case.x.requires_grad_(),), atol=1e-5), term


@on("native", "shim")
@by_activation
@pytest.mark.parametrize("term", TERMS)
def test_every_term_alone(machine: Machine, term: str, activation: str, ce_activation: str) -> None:
    for kind in ("ignore", "dense"):
        case = case_of((2, 3, 41), kind, [term], activation, ce_activation, 1.7)
        check(machine, case, signed=True)


@on("reference", "native", "interpreted")
@sized("dtype", FLOATING, interpreted=FLOATING[:2])
@by_activation
def test_dtypes_are_as_accurate_as_pytorch(
    machine: Machine, dtype: torch.dtype, activation: str, ce_activation: str
) -> None:
    shape = machine.pick((2, 5, 7, 11, 13), interpreted=(1, 3, 8, 9))
    for gamma in machine.pick((0.7, 2.0), interpreted=(0.7,)):
        case = case_of(shape, "labels", TERMS, activation, ce_activation, gamma)
        if activation == "probabilities":
            # 1 - p of a rounded p near 1 amplifies nothing but the rounding.
            case = replace(case, x=case.x.clamp(0.01, 0.99))
        check(machine, case.to(dtype))


@on("reference", "native", "interpreted", "cuda")
@sized("number", [case for case in NUMBERS if case != (300, "labels")], interpreted=NUMBERS)
def test_number_of_classes(machine: Machine, number: tuple[int, str]) -> None:
    classes, kind = number
    activation = "sigmoid" if classes == 1 else "softmax"
    case = case_of((2, classes, 3, 7), kind, LOSS_TERMS, activation, gamma=1.5)
    check(machine, in_best_dtype(machine, case), signed=True)


@on("native", "shim", "cuda")
@sized(
    "classes", [1, 2, 5, 14], shim=[1, 2, 3, 4, 5, 14, 32, 33, 105, 130, 300], cuda=[1, 2, 4, 33]
)
@sized("dtype", FLOATING)
def test_sets_of_terms(machine: Machine, classes: int, dtype: torch.dtype) -> None:
    """Every variant on a volume of odd size, and on one with aligned rows; all kinds of weights."""
    if dtype not in machine.dtypes:
        pytest.skip("not of this machine")
    turn = classes + FLOATING.index(dtype)
    sizes = ((3, 5, 7), (2, 8, 8)) if classes < 100 else ((3, 13), (4, 8))
    batch = 1 if classes > 100 else 2
    # Of many classes, which take long, each set with two of the dtypes.
    chosen = slice(None) if classes < 100 else slice(turn % 2, None, 2)
    for place, (terms, activation) in list(enumerate(SETS))[chosen]:
        if classes == 1 and activation == "softmax":
            continue
        size = sizes[(place + turn // 2) % 2]
        case = case_of((batch, classes, *size), KINDS[place % 2], terms, activation)
        case = case if case.weight is None else replace(case, weight=case.weight.abs())
        check(machine, case.to(dtype))
    case = case_of((batch, classes, *sizes[1]), "dense", TERMS, "sigmoid")
    assert case.weight is not None
    check(machine, replace(case, weight=case.weight.abs().to(dtype)).to(dtype))


@on("interpreted", "shim", "cuda")
@sized("classes", [17, 130], shim=[], cuda=[17, 130])
def test_independent_classes_in_blocks(machine: Machine, classes: int) -> None:
    check(
        machine,
        case_of((2, classes, 2, 5), "labels", (*LOSS_TERMS, "focal"), "sigmoid").to(torch.float32),
    )


@on("native", "interpreted", "shim", "cuda")
@sized("classes", [40, 140], shim=[1024])
@pytest.mark.parametrize("kind", ["labels", "dense"])
def test_every_term_of_many_classes(machine: Machine, classes: int, kind: str) -> None:
    """The denominator of a softmax is the sum of as many numbers on every machine."""
    most = classes > 999
    case = case_of((1, classes, 5), kind, TERMS, "softmax", "sigmoid" if most else None)
    case = case if case.weight is None else replace(case, weight=case.weight.abs())
    for dtype in (torch.float32, torch.float64) if most else (torch.float32,):
        check(machine, case.to(dtype), roundings=16 if most else 10)


@pytest.mark.parametrize("layout", LAYOUTS)
@sized("dtype", [torch.float32], interpreted=[], shim=FLOATING, cuda=FLOATING)
def test_layouts(machine: Machine, layout: str, dtype: torch.dtype) -> None:
    if dtype not in machine.dtypes:
        pytest.skip("not of this machine")
    for classes in machine.pick((3,), shim=(3, 37), cuda=(3, 37)):
        terms = machine.pick(TERMS, shim=(*OVERLAP, "nll"), cuda=(*OVERLAP, "nll"))
        plain = case_of((2, classes, 3, 6, 10), "labels", terms).to(dtype)
        dense = replace(plain, target=torch.rand_like(plain.x, dtype=torch.float32))
        weighed = replace(dense, weight=dense.target + 1)
        assert weighed.weight is not None
        check(machine, replace(plain, x=lay_out(plain.x, layout)))
        check(machine, replace(plain, target=lay_out(plain.target, layout)))
        check(machine, replace(dense, target=lay_out(dense.target, layout)))
        check(machine, replace(weighed, weight=lay_out(weighed.weight, layout)))


@pytest.mark.parametrize("name", strided())
def test_layouts_together(machine: Machine, name: str) -> None:
    x, target, weight = strided()[name]
    case = Case(x, target, weight, options_of((*OVERLAP, "nll", "sq_err", "weight")))
    rows, grad = check(machine, case)
    same, same_grad = solve(machine, case.each(torch.Tensor.contiguous))
    assert relative_max(rows, same) < 10 * EPSILON
    assert relative_l2(grad, same_grad) < 5 * EPSILON


@pytest.mark.usefixtures("small_tiles")
@sized("classes", few([1, 2, 33, 130], quick=2, test=3), interpreted=[2, 20], shim=[2, 33])
@sized(
    "size",
    [(1,), (63,), (64,), (65,), (4097,), (17, 1021), (3, 1, 2731)],
    interpreted=[(1,), (63,), (64,), (2051,), (3, 1, 17), (4, 128)],
    shim=[(1,), (31,), (64,), (127,), (129,), (4097,), (17, 61)],
    cuda=[(1,), (63,), (4097,), (17, 1021), (3, 1, 2731), (64, 64, 64)],
)
def test_blocks_and_chunks(machine: Machine, classes: int, size: tuple[int, ...]) -> None:
    batch = 1 if classes == 130 and torch.Size(size).numel() > 5000 else 2
    usual = (TERMS, "sigmoid")
    terms, activation = machine.pick(
        usual, interpreted=(LOSS_TERMS, "softmax"), shim=((*OVERLAP, "nll"), "softmax")
    )
    case = in_best_dtype(machine, case_of((batch, classes, *size), "labels", terms, activation))
    for multiprocessors in machine.pick((0,), shim=(1, 132)):
        machine.set_multiprocessors(multiprocessors)
        rows, grad = check(machine, case, signed=True)
    again, again_grad = solve(machine, case)
    assert torch.equal(again, rows)
    assert torch.equal(again_grad, grad)


@on("reference", "native")
@pytest.mark.parametrize("subset", few(PAIRS, quick=10, test=30), ids="-".join)
def test_rows_do_not_depend_on_what_else_is_asked(
    machine: Machine, subset: tuple[str, str]
) -> None:
    case = case_of((1, 3, 5, 7), "dense", gamma=1.5)
    all_rows, _ = solve(machine, case)
    rows, _ = check(machine, case.having(terms=subset), signed=True)
    for name, row in zip(subset, rows, strict=True):
        assert relative_max(row, all_rows[TERMS.index(name)]) < 1e-13


def test_the_order_of_terms_is_that_of_the_rows(machine: Machine) -> None:
    case = in_best_dtype(machine, case_of((2, 3, 5, 7), "dense"))
    rows, grad = solve(machine, case)
    order = torch.randperm(len(TERMS), generator=torch.Generator().manual_seed(1)).tolist()
    case = case.having(terms=tuple(TERMS[i] for i in order)).each(machine.place)
    x = case.x.requires_grad_()
    shuffled = sums(machine, case)
    assert torch.equal(shuffled.detach().cpu(), rows[order])
    back = torch.tensor(order, device=x.device).argsort()
    assert relative_l2(derive(shuffled[back], x).cpu(), grad) < 1e-14


@on("native", sets=True)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_every_instruction_set(machine: Machine, dtype: torch.dtype) -> None:
    for activation, ce_activation in ACTIVATIONS[3:]:
        case = case_of((2, 5, 9, 7, 13), "labels", TERMS, activation, ce_activation, 1.5)
        check(machine, case.to(dtype))
