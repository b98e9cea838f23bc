"""region_sums on a CUDA device: value and gradient of every option against float64 on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast import region_sums, region_sums_multi
from segloss_fast._check import FLOATING, INTEGER
from segloss_fast.ops.region_sums import TERMS
from tests.gpu.device import DEVICE, IMPLS, KERNELS, on_device, require
from tests.helpers import relative_l2, relative_max
from tests.ops.one_class_cases import IGNORED, soft_mask, turned
from tests.ops.samples import ACTIVATIONS, sample, weighted_gradient

by_impl = pytest.mark.parametrize("impl", IMPLS)
by_kernel = pytest.mark.parametrize("impl", KERNELS)
by_activation = pytest.mark.parametrize(("activation", "ce_activation"), ACTIVATIONS)


def compare(
    impl: str,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    layout: str = "contiguous",
    **options: Any,  # noqa: ANN401
) -> None:
    """Assert that rows and gradient equal those of the reference in float64, on the CPU."""
    require(impl)
    if x.dtype == torch.float64 and impl == "triton":
        pytest.skip("the Triton kernels have no float64")
    true_rows, true_grad = weighted_gradient(
        x.double(), target, "reference", voxel_weight=weight, **options
    )
    there, target_there, weight_there = on_device(x, target, weight)
    assert there is not None
    assert target_there is not None
    if layout == "channels_last":
        there = there.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "sliced":
        there = torch.stack([there, there], -1).flatten(-2)[..., ::2]
    rows, grad = weighted_gradient(there, target_there, impl, voxel_weight=weight_there, **options)
    assert rows.device.type == DEVICE
    assert grad.dtype == x.dtype
    compute = torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32).eps
    names = options["terms"]
    for name, row, true_row in zip(names, rows.cpu(), true_rows, strict=True):
        assert relative_max(row, true_row) < 10 * compute, name
    assert relative_l2(grad.cpu(), true_grad) < max(0.5 * torch.finfo(x.dtype).eps, 5 * compute)


@by_impl
@by_activation
@pytest.mark.parametrize("kind", ["labels", "ignore", "dense"])
@pytest.mark.parametrize("gamma", [0.0, 0.7, 2.0])
def test_every_term(
    impl: str, activation: str, ce_activation: str, kind: str, gamma: float
) -> None:
    x, target, weight, ignore = sample((2, 5, 7, 11, 13), activation, kind)
    if activation == "probabilities":
        x = x.clamp(0.01, 0.99)  # 1 - p of a rounded p near 1 amplifies nothing but the rounding
    options: dict[str, Any] = {"activation": activation, "ce_activation": ce_activation}
    options |= {"terms": TERMS, "gamma": gamma, "ignore_index": ignore}
    compare(impl, x.float(), target, weight, **options)


@by_kernel
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("classes", [2, 3, 4, 8, 14, 32, 33, 64, 105, 300])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_dtypes_classes_and_layouts(
    impl: str, dtype: torch.dtype, classes: int, layout: str
) -> None:
    x, target, _, _ = sample((2, classes, 9, 16, 16), "softmax", "labels")
    terms = ("tp", "pred", "target", "nll", "focal", "nll_neg")
    compare(impl, x.to(dtype), target, layout=layout, terms=terms, gamma=2.0)


@by_kernel
@pytest.mark.parametrize("size", [(1,), (63,), (4097,), (17, 1021), (3, 1, 2731), (64, 64, 64)])
@pytest.mark.parametrize("classes", [1, 2, 33])
def test_blocks_and_chunks(impl: str, size: tuple[int, ...], classes: int) -> None:
    x, target, _, _ = sample((2, classes, *size), "sigmoid", "labels")
    compare(impl, x.float(), target, terms=TERMS, activation="sigmoid", gamma=2.0)


@by_kernel
@pytest.mark.parametrize("dtype", [*INTEGER, *FLOATING], ids=str)
@pytest.mark.parametrize("dense", [False, True])
def test_targets_of_any_dtype(impl: str, dtype: torch.dtype, dense: bool) -> None:
    classes = 2 if dtype == torch.bool else 5
    x, target, _, _ = sample((2, classes, 5, 6, 8), "softmax", "labels")
    if dense:
        target = torch.nn.functional.one_hot(target, classes).movedim(-1, 1)
    compare(impl, x.float(), target.to(dtype), terms=TERMS, gamma=1.5)


@by_kernel
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("per_class", [False, True])
def test_voxel_weights_of_any_dtype(impl: str, dtype: torch.dtype, per_class: bool) -> None:
    x, target, _, _ = sample((2, 4, 5, 6, 8), "softmax", "labels")
    weight = torch.randn(2, 4 if per_class else 1, 5, 6, 8).to(dtype)
    compare(impl, x.float(), target, weight, terms=TERMS, gamma=2.0)


@by_kernel
@pytest.mark.parametrize("scale", [30.0, 300.0, 1e4])
def test_saturated_logits(impl: str, scale: float) -> None:
    x, target, _, _ = sample((1, 4, 31, 7), "softmax", "labels")
    terms = ("tp", "pred", "nll", "nll_neg", "nll_all", "focal", "focal_neg")
    compare(impl, (scale * x / 3).float(), target, terms=terms, gamma=2.0)


@by_kernel
@pytest.mark.parametrize("kind", ["labels", "ignore", "dense"])
def test_several_inputs_in_one_call(impl: str, kind: str) -> None:
    require(impl)
    problems = [
        sample(shape, "softmax", kind)
        for shape in [(2, 3, 32, 24, 9), (2, 3, 16, 12, 5), (1, 3, 97), (3, 3, 1, 1)]
    ]
    inputs, targets, weights, ignored = zip(*problems, strict=True)
    options: dict[str, Any] = {"terms": TERMS, "gamma": 2.0, "ignore_index": ignored[0]}

    def run(device: str, dtype: torch.dtype, name: str) -> tuple[list[Tensor], list[Tensor]]:
        xs = [x.to(device, dtype).requires_grad_() for x in inputs]
        sums = region_sums_multi(
            xs,
            [target.to(device) for target in targets],
            voxel_weights=None if weights[0] is None else [w.to(device) for w in weights],
            impl=name,
            **options,
        )
        rows = [record.rows for record in sums]
        grads = torch.autograd.grad(torch.stack([row.sum() for row in rows]).sum(), xs)
        return [row.detach().cpu() for row in rows], [grad.cpu() for grad in grads]

    rows, grads = run(DEVICE, torch.float32, impl)
    true_rows, true_grads = run("cpu", torch.float64, "reference")
    for row, true_row in zip(rows, true_rows, strict=True):
        assert relative_max(row, true_row) < 2e-6
    for grad, true_grad in zip(grads, true_grads, strict=True):
        assert relative_l2(grad, true_grad) < 1e-6


@by_kernel
def test_nothing_to_sum(impl: str) -> None:
    require(impl)
    for shape in [(0, 3, 4), (2, 3, 0), (2, 3, 4, 0, 5)]:
        x = torch.randn(shape, device=DEVICE, requires_grad=True)
        labels = torch.zeros((shape[0], *shape[2:]), dtype=torch.int64, device=DEVICE)
        rows = region_sums(x, labels, terms=TERMS, gamma=2, impl=impl).rows
        assert rows.shape == (len(TERMS), *shape[:2])
        assert (rows == 0).all()
        rows.sum().backward()
        assert x.grad is not None
        assert x.grad.shape == shape


@by_kernel
def test_nan_under_an_ignored_label_does_not_count(impl: str) -> None:
    require(impl)
    x, target, _, _ = sample((2, 3, 9, 11), "softmax", "labels")
    target[0, :3] = 255
    clean = x.float().to(DEVICE)
    dirty = clean.clone()
    dirty[0, :, :3] = torch.nan
    labels = target.to(DEVICE)
    options: dict[str, Any] = {"terms": ("tp", "pred", "nll"), "ignore_index": 255}
    rows, grad = weighted_gradient(clean, labels, impl, **options)
    other_rows, other_grad = weighted_gradient(dirty, labels, impl, **options)
    assert torch.equal(other_rows, rows)
    assert torch.equal(other_grad, grad)
    assert (grad[0, :, :3] == 0).all()
    dirty[1, 0, 0, 0] = torch.nan
    rows, _ = weighted_gradient(dirty, labels, impl, **options)
    assert rows[:, 1].isnan().any()
    assert rows[:, 0].isfinite().all()


@by_impl
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_values_of_one_class(impl: str, dtype: torch.dtype) -> None:
    case = soft_mask((33, 65), dtype)
    options: dict[str, Any] = {"activation": "sigmoid", "terms": TERMS, "gamma": 2.0}
    for target in (case.target, case.target[:, 0], turned(case.target)):
        compare(impl, case.clean.float(), target, ignore_index=IGNORED, **options)


@by_impl
@pytest.mark.parametrize("bad", [255.0, -1.0, torch.nan])
def test_values_outside_of_zero_to_one_become_nan(impl: str, bad: float) -> None:
    require(impl)
    case = soft_mask((33, 65))
    x, target = case.clean.float().to(DEVICE), case.values.float()[:, 0]
    options: dict[str, Any] = {"activation": "sigmoid", "impl": impl}
    assert region_sums(x, target.to(DEVICE), **options).rows.isfinite().all()
    target[1, 20, 7] = bad
    assert region_sums(x, target.to(DEVICE), **options).rows.isnan().all()
    labels = case.values.round().long()
    labels[1, 0, 20, 7] = 2
    assert region_sums(x, labels.to(DEVICE), **options).rows.isnan().all()
