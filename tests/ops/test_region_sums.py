"""region_sums: every term, activation, target and dtype against the definition."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from segloss_fast import region_sums, region_sums_multi
from segloss_fast._check import FLOATING, INTEGER
from segloss_fast.ops.region_sums import TERMS
from tests.helpers import IMPLS, relative_l2, relative_max
from tests.ops import definition
from tests.ops.samples import ACTIVATIONS, sample, weighted_gradient
from tests.suite.tiers import few

# Neighbours in the list come first: a few of them cover all terms.
PAIRS = sorted(
    itertools.combinations(TERMS, 2), key=lambda p: TERMS.index(p[1]) - TERMS.index(p[0])
)
by_impl = pytest.mark.parametrize("impl", IMPLS)
by_activation = pytest.mark.parametrize(("activation", "ce_activation"), ACTIVATIONS)


def expected(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int | None,
    **options: object,
) -> Tensor:
    """Return the rows by the definition."""
    if target.dim() == x.dim():
        values, counted = target, torch.ones(())
    else:
        values, counted = definition.one_hot(target, x.shape[1], ignore_index)
        x = torch.where(counted == 0, 0.5, x)
    weight = torch.ones_like(x) if weight is None else weight
    return definition.sums(x, values, weight * counted, **options)  # type: ignore[arg-type]


@by_impl
@by_activation
@pytest.mark.parametrize("kind", ["labels", "ignore", "dense"])
@pytest.mark.parametrize("gamma", few([0.7, 2.0, 0.0, 1.0, 3.5], test=2))
def test_every_term_equals_its_definition(
    impl: str, activation: str, ce_activation: str, kind: str, gamma: float
) -> None:
    x, target, weight, ignore_index = sample((2, 5, 3, 7, 11), activation, kind)
    options = {"activation": activation, "ce_activation": ce_activation, "gamma": gamma}
    ours = region_sums(
        x,
        target,
        terms=TERMS,
        voxel_weight=weight,
        ignore_index=ignore_index,
        impl=impl,
        **options,  # type: ignore[arg-type]
    )
    truth = expected(x, target, weight, ignore_index, **options)
    for name, row, true_row in zip(TERMS, ours.rows, truth, strict=True):
        assert relative_max(row, true_row) < 2e-12, name


@by_impl
@by_activation
@pytest.mark.parametrize("kind", ["ignore", "dense"])
def test_gradient_of_every_term(impl: str, activation: str, ce_activation: str, kind: str) -> None:
    x, target, weight, ignore_index = sample((2, 3, 5), activation, kind)
    x.requires_grad_()
    for term in TERMS:

        def rows(x: Tensor, term: str = term) -> Tensor:
            return region_sums(
                x,
                target,
                terms=[term],
                activation=activation,
                ce_activation=ce_activation,
                gamma=1.7,
                voxel_weight=weight,
                ignore_index=ignore_index,
                impl=impl,
            ).rows

        assert torch.autograd.gradcheck(rows, (x,), atol=1e-5), term


@by_impl
@by_activation
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("gamma", [0.7, 2.0])
def test_dtypes_are_as_accurate_as_pytorch(
    impl: str, activation: str, ce_activation: str, dtype: torch.dtype, gamma: float
) -> None:
    x, target, _, _ = sample((2, 5, 7, 11, 13), activation, "labels")
    if activation == "probabilities":
        x = x.clamp(0.01, 0.99)  # 1 - p of a rounded p near 1 amplifies nothing but the rounding
    x = x.to(dtype)
    options: dict[str, object] = {
        "activation": activation,
        "ce_activation": ce_activation,
        "gamma": gamma,
        "terms": TERMS,
    }
    rows, grad = weighted_gradient(x, target, impl, **options)
    true_rows, true_grad = weighted_gradient(x.double(), target, "reference", **options)
    assert grad.dtype == dtype
    epsilon = torch.finfo(dtype).eps
    compute_epsilon = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    for name, row, true_row in zip(TERMS, rows, true_rows, strict=True):
        assert relative_max(row, true_row) < 10 * compute_epsilon, name
    assert relative_l2(grad, true_grad) < max(0.5 * epsilon, 5 * compute_epsilon)


@by_impl
@pytest.mark.parametrize("dtype", [*INTEGER, *FLOATING], ids=str)
@pytest.mark.parametrize("channel", [False, True])
def test_labels_of_any_dtype(impl: str, dtype: torch.dtype, channel: bool) -> None:
    classes = 2 if dtype == torch.bool else 5
    x, target, _, _ = sample((2, classes, 3, 5, 9), "softmax", "labels")
    rows = region_sums(x, target, terms=TERMS, gamma=2, impl=impl).rows
    typed = target.to(dtype)
    typed = typed[:, None] if channel else typed
    assert torch.equal(region_sums(x, typed, terms=TERMS, gamma=2, impl=impl).rows, rows)
    if dtype == torch.bool:
        return
    ignored = 100
    target[0, 0] = ignored
    typed[0, ..., 0, :, :] = ignored
    options = {"terms": TERMS, "gamma": 2.0, "ignore_index": ignored, "impl": impl}
    assert torch.equal(
        region_sums(x, typed, **options).rows,  # type: ignore[arg-type]
        region_sums(x, target, **options).rows,  # type: ignore[arg-type]
    )


@by_impl
@pytest.mark.parametrize("dtype", [*INTEGER, *FLOATING], ids=str)
def test_dense_targets_of_any_dtype(impl: str, dtype: torch.dtype) -> None:
    x, labels, _, _ = sample((2, 3, 4, 5), "sigmoid", "labels")
    values = definition.one_hot(labels, 3)[0]
    options = {"activation": "sigmoid", "terms": TERMS, "gamma": 2.0, "impl": impl}
    rows = region_sums(x, values, **options).rows  # type: ignore[arg-type]
    assert torch.equal(region_sums(x, values.to(dtype), **options).rows, rows)  # type: ignore[arg-type]


@by_impl
@pytest.mark.parametrize("size", [(1,), (63,), (64,), (65,), (4097,), (17, 1021), (3, 1, 2731)])
@pytest.mark.parametrize("classes", few([1, 2, 33, 130], quick=2, test=3))
def test_blocks_and_chunks(impl: str, size: tuple[int, ...], classes: int) -> None:
    x, target, _, _ = sample((2, classes, *size), "sigmoid", "labels")
    options: dict[str, object] = {"activation": "sigmoid", "terms": TERMS, "gamma": 2.0}
    rows, grad = weighted_gradient(x, target, impl, **options)
    truth = expected(
        x, target, None, None, activation="sigmoid", ce_activation="sigmoid", gamma=2.0
    )
    assert relative_max(rows, truth) < 1e-12
    _, true_grad = weighted_gradient(x, target, "reference", **options)
    assert relative_l2(grad, true_grad) < 1e-12


@by_impl
@pytest.mark.parametrize("subset", few(PAIRS, quick=10, test=30), ids="-".join)
def test_rows_do_not_depend_on_what_else_is_asked(impl: str, subset: tuple[str, str]) -> None:
    x, target, weight, _ = sample((1, 3, 5, 7), "softmax", "dense")
    options: dict[str, object] = {"voxel_weight": weight, "gamma": 1.5}
    all_rows, _ = weighted_gradient(x, target, impl, terms=TERMS, **options)
    rows, grad = weighted_gradient(x, target, impl, terms=subset, **options)
    for name, row in zip(subset, rows, strict=True):
        assert relative_max(row, all_rows[TERMS.index(name)]) < 1e-13
    _, true_grad = weighted_gradient(x, target, "reference", terms=subset, **options)
    assert relative_l2(grad, true_grad) < 1e-12


@by_impl
@pytest.mark.parametrize("channels", [1, 3])
def test_a_nan_weight_of_an_ignored_voxel_does_not_count(impl: str, channels: int) -> None:
    x, labels, _, _ = sample((2, 3, 5, 7), "softmax", "ignore")
    weight = torch.rand(2, channels, 5, 7)
    ignored = (labels == 255)[:, None].expand_as(weight)
    options: dict[str, object] = {"terms": TERMS, "gamma": 2.0, "ignore_index": 255}
    rows, grad = weighted_gradient(x, labels, impl, voxel_weight=weight, **options)
    weight = weight.masked_fill(ignored, torch.nan)
    other_rows, other_grad = weighted_gradient(x, labels, impl, voxel_weight=weight, **options)
    assert torch.equal(other_rows, rows)
    assert torch.equal(other_grad, grad)


@by_impl
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_weight_of_bytes_is_one_of_numbers(impl: str, dtype: torch.dtype, channels: int) -> None:
    x, target, _, ignore_index = sample((2, 3, 5, 7), "softmax", "ignore")
    weight = (torch.rand(2, channels, 5, 7) * 3).to(dtype)
    options: dict[str, object] = {"terms": TERMS, "gamma": 2.0, "ignore_index": ignore_index}
    ours = weighted_gradient(x, target, impl, voxel_weight=weight, **options)
    numbers = weighted_gradient(x, target, impl, voxel_weight=weight.float(), **options)
    for found, wanted in zip(ours, numbers, strict=True):
        assert torch.equal(found, wanted)
    (both,) = region_sums_multi([x], [target], voxel_weights=[weight], impl=impl, **options)  # type: ignore[arg-type]
    assert torch.equal(both.rows, ours[0])
