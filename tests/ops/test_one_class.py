"""The targets of one class in the primitives: every dtype, ignored values, what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast import lovasz, lovasz_counts, region_sums, region_sums_multi
from segloss_fast._check import FLOATING, INTEGER
from segloss_fast._native import _C
from segloss_fast.ops.hardest_voxels import Rule, hardest_voxels
from segloss_fast.ops.region_masks import prediction_masks, target_masks
from tests.helpers import gradient, relative_l2, relative_max
from tests.ops import definition
from tests.ops.one_class_cases import BAD_LABELS, BAD_VALUES, IGNORED, soft_mask, turned

TERMS = definition.TERMS
SIZE = (37, 41)
by_dtype = pytest.mark.parametrize("dtype", FLOATING, ids=str)


@pytest.fixture(params=["reference", "baseline", "avx2", "avx512"])
def impl(request: pytest.FixtureRequest) -> Iterator[str]:
    """The reference, and the native kernels of each instruction set that this machine has."""
    if request.param == "reference":
        yield "reference"
        return
    if _C is None:
        pytest.skip("the native module is not built")
    before = _C.cpu_capability()
    try:
        _C.set_cpu_capability(request.param)
    except RuntimeError as error:
        pytest.skip(str(error))
    yield "native"
    _C.set_cpu_capability(before)


def at(target: Tensor, primitive: Any, what: str, **options: Any) -> Callable[[Tensor], Tensor]:  # noqa: ANN401
    """Return a part of what a primitive returns, as a function of the input."""
    return lambda x: getattr(primitive(x, target, **options), what)


@by_dtype
@pytest.mark.parametrize("activation", ["sigmoid", "probabilities"])
def test_sums_of_values(impl: str, dtype: torch.dtype, activation: str) -> None:
    case = soft_mask(SIZE, dtype)
    x, clean = case.input, case.clean
    if activation == "probabilities":
        x, clean = x.sigmoid(), clean.sigmoid()
    weight = torch.randn(case.values.shape, generator=torch.Generator().manual_seed(1)).double()
    formulas: Any = {"activation": activation, "ce_activation": activation, "gamma": 1.5}
    wanted = definition.sums(clean, case.values, weight * case.kept, **formulas)
    options: Any = {"activation": activation, "terms": TERMS, "gamma": 1.5, "impl": impl}
    options |= {"voxel_weight": weight, "ignore_index": IGNORED}
    grads = []
    for target in (case.target, case.target[:, 0], turned(case.target)):
        rows, grad = gradient(at(target, region_sums, "rows", **options), x)
        for name, row, true_row in zip(TERMS, rows, wanted, strict=True):
            assert relative_max(row, true_row) < 1e-12, name
        assert not grad[~case.kept].any()
        grads.append(grad)
    without = options | {"voxel_weight": weight * case.kept, "ignore_index": None}
    _, true_grad = gradient(lambda x: region_sums(x, case.values, **without).rows, clean)
    for grad in grads:
        assert relative_l2(grad, true_grad * case.kept) < 1e-12


@pytest.mark.parametrize("dtype", INTEGER, ids=str)
def test_sums_of_labels(impl: str, dtype: torch.dtype) -> None:
    case = soft_mask(SIZE)
    labels = case.values.round()
    formulas: Any = {"activation": "sigmoid", "ce_activation": "sigmoid", "gamma": 2.0}
    wanted = definition.sums(case.clean, labels, torch.ones_like(labels), **formulas)
    options: Any = {"activation": "sigmoid", "terms": TERMS, "gamma": 2.0, "impl": impl}
    for target in (labels.to(dtype), labels[:, 0].to(dtype), turned(labels.to(dtype))):
        assert relative_max(region_sums(case.clean, target, **options).rows, wanted) < 1e-12


@by_dtype
@pytest.mark.parametrize(("bad", "shown"), BAD_VALUES)
def test_values_outside_of_zero_to_one(
    impl: str, dtype: torch.dtype, bad: float, shown: str
) -> None:
    x, target = soft_mask(SIZE, dtype).clean, soft_mask(SIZE, dtype).values.to(dtype)
    target[1, 0, 20, 7], target[1, 0, 36, 40] = bad, 3
    text = re.escape("values in [0, 1] or ignore_index, got 2 other values, the first of which is")
    for t in (target, target[:, 0], turned(target)):
        for call in calls(impl):
            with pytest.raises(ValueError, match=f"{text} {re.escape(shown)}$"):
                call(x, t)
            with pytest.raises(ValueError, match=f"got 1 other.*is {re.escape(shown)}$"):
                call(x, t, ignore_index=3)


@pytest.mark.parametrize(("dtype", "bad"), BAD_LABELS)
def test_labels_that_are_not_zero_or_one(impl: str, dtype: torch.dtype, bad: int) -> None:
    x, labels = soft_mask(SIZE).clean, soft_mask(SIZE).values.round().to(dtype)
    labels[1, 0, 20, 7], labels[1, 0, 36, 40] = bad, 3
    for t in (labels, labels[:, 0], turned(labels)):
        for call in calls(impl):
            with pytest.raises(ValueError, match=f"0, 1 or ignore_index, got 2 other.*is {bad}$"):
                call(x, t)
            with pytest.raises(
                ValueError, match=f"got 1 other values, the first of which is {bad}"
            ):
                call(x, t, ignore_index=3)


def calls(impl: str) -> list[Any]:
    """Return the primitives that judge targets, as functions of input and target."""

    def sums(x: Tensor, t: Tensor, **options: Any) -> object:  # noqa: ANN401
        return region_sums(x, t, activation="sigmoid", terms=["tp"], impl=impl, **options)

    def several(x: Tensor, t: Tensor, **options: Any) -> object:  # noqa: ANN401
        fine = torch.zeros_like(t)
        return region_sums_multi(
            [x, x], [fine, t], activation="sigmoid", terms=["weight"], impl=impl, **options
        )

    def counts(x: Tensor, t: Tensor, **options: Any) -> object:  # noqa: ANN401
        return lovasz_counts(x, t, activation="hinge", impl=impl, **options)

    def sort(x: Tensor, t: Tensor, **options: Any) -> object:  # noqa: ANN401
        return lovasz(x, t, activation="sigmoid", method="sort", impl=impl, **options)

    return [sums, several, counts, sort]


@pytest.mark.parametrize("method", ["sort", "histogram"])
@pytest.mark.parametrize("activation", ["sigmoid", "hinge"])
@by_dtype
def test_lovasz_of_values(impl: str, method: str, activation: str, dtype: torch.dtype) -> None:
    """Equals that of the kept voxels alone, foreground where the value is above one half."""
    case = soft_mask(SIZE, dtype)
    options: Any = {"activation": activation, "method": method, "cross_entropy": True}
    few = case.clean[case.kept].view(1, 1, -1)
    labels = (case.values[case.kept] > 0.5).long().view(1, -1)
    truth = lovasz(few, labels, impl="reference", **options)
    _, true_grad = gradient(lambda x: lovasz(x, labels, impl="reference", **options).loss, few)
    for target in (case.target, case.target[:, 0], turned(case.target)):
        sums = lovasz(case.input, target, ignore_index=IGNORED, impl=impl, **options)
        assert relative_max(sums.loss, truth.loss) < 1e-5
        assert sums.cross_entropy is not None
        assert truth.cross_entropy is not None
        assert relative_max(sums.cross_entropy, truth.cross_entropy) < 1e-12
        assert sums.target.item() == labels.sum()
        assert sums.weight.item() == case.kept.sum()
        own = {**options, "ignore_index": IGNORED, "impl": impl}
        _, grad = gradient(at(target, lovasz, "loss", **own), case.input)
        assert relative_l2(grad[case.kept], true_grad.flatten()) < 1e-5
        assert not grad[~case.kept].any()


@by_dtype
def test_the_hardest_voxels_of_values(impl: str, dtype: torch.dtype) -> None:
    case = soft_mask(SIZE, dtype)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        case.clean, case.values, reduction="none"
    )[case.kept]
    number = len(loss) // 4
    threshold = loss.sort(descending=True).values[number]
    rule = Rule(25.0, "sigmoid", ignore_index=IGNORED)
    for target in (case.target, turned(case.target)):
        found, selected = hardest_voxels(case.input, target, None, rule, impl=impl)
        assert selected.sum() == number
        assert torch.equal(found[case.kept] == 1, loss > threshold)
        assert not found[~case.kept].any()


@by_dtype
def test_masks_of_values(impl: str, dtype: torch.dtype) -> None:
    case = soft_mask(SIZE, dtype)
    for target in (case.target, turned(case.target)):
        found = target_masks(target, 1, dense=True, ignore_index=IGNORED, impl=impl)
        assert torch.equal(found, (case.values > 0.5) & case.kept)
        found = prediction_masks(
            case.clean, target, activation="sigmoid", ignore_index=IGNORED, impl=impl
        )
        assert torch.equal(found, (case.clean > 0) & case.kept)
    found = target_masks(case.values, 1, dense=True, ignore_index=1, impl=impl)
    assert torch.equal(found, (case.values > 0.5) & (case.values < 1))


def test_values_of_several_classes_are_not_judged(impl: str) -> None:
    """Multi-label and soft targets of several classes may hold any number."""
    x = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(0)).double()
    target = torch.full_like(x, 2.5)
    sums = region_sums(x, target, activation="sigmoid", terms=["target"], impl=impl)
    assert sums.target.tolist() == [[12.5, 12.5]]
    for value in (1e8, -300.0):
        p = torch.full((1, 2, 5), 0.25, requires_grad=True)
        target = torch.full_like(p, value)
        for term, slope in (("pred", 1.0), ("sq_err", 2 * (0.25 - value)), ("pred_sq", 0.5)):
            rows = region_sums(p, target, activation="probabilities", terms=[term], impl=impl).rows
            (grad,) = torch.autograd.grad(rows.sum(), p)
            torch.testing.assert_close(grad, torch.full_like(p, slope), rtol=1e-6, atol=0)
