"""lovasz at the ends, on every machine: saturated and infinite logits, NaN, far and empty ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from segloss_fast.ops.lovasz import bins, reference
from tests.helpers import relative_l2
from tests.machines import Machine, on, sized
from tests.ops.lovasz_cases import (
    assert_counts,
    best_dtype,
    by_activation,
    by_method,
    count,
    has,
    histogram,
    options_of,
    require,
    solve,
    sort,
    truth,
)
from tests.ops.lovasz_samples import sample
from tests.ops.region_sums_cases import spread_out
from tests.ops.test_lovasz import call, derive
from tests.ops.test_lovasz_targets import inputs


@by_method
@pytest.mark.parametrize("activation", ["sigmoid", "hinge"])
def test_without_foreground_the_largest_error_alone_counts(
    machine: Machine, method: str, activation: str
) -> None:
    require(machine, method)
    x = torch.tensor([0.5, -3.0, 2.0, 1.0]).view(1, 1, 4).to(best_dtype(machine))
    target = torch.zeros(1, 4, dtype=torch.int64)
    options: Any = {"activation": activation, "method": method}
    value, grad = derive(machine, x, target, **options)
    p = torch.sigmoid(torch.tensor(2.0, dtype=torch.float64))
    wanted = p if activation == "sigmoid" else 3.0
    torch.testing.assert_close(value.item(), float(wanted), rtol=2e-5, atol=0)
    slope = float(p * (1 - p)) if activation == "sigmoid" else 1.0
    torch.testing.assert_close(grad[0, 0], torch.tensor([0, 0, slope, 0]).to(x.dtype))
    if activation == "hinge":  # margins kept by all: no error at all
        value, grad = derive(machine, torch.full_like(x, -1.5), target, **options)
        assert value == 0
        assert (grad == 0).all()


@by_activation
@by_method
def test_nan_counts_where_it_is_not_ignored(machine: Machine, method: str, activation: str) -> None:
    require(machine, method)
    x, target = inputs()
    x[1, 1, 2, 3] = torch.nan
    options: Any = {"activation": activation, "method": method, "per_image": True}
    sums = call(machine, x, target, cross_entropy=True, **options)
    assert sums.cross_entropy is not None
    assert sums.loss[0].isfinite().all()
    touched = [0, 1, 2] if activation == "softmax" else [1]
    assert sums.loss[1].isnan().tolist() == [c in touched for c in range(3)]
    assert sums.cross_entropy[1, 1 if activation != "softmax" else int(target[1, 2, 3])].isnan()
    _, grad = derive(machine, x, target, **options)
    assert grad[0].isfinite().all()
    assert grad[1, 1].isnan().any()
    target[1, 2, 3] = 255
    value, grad = derive(machine, x, target, ignore_index=255, **options)
    assert value.isfinite().all()
    assert grad.isfinite().all()
    assert (grad[1, :, 2, 3] == 0).all()
    clean, _ = derive(machine, x.nan_to_num(3.0), target, ignore_index=255, **options)
    assert torch.equal(clean, value)


@by_activation
@pytest.mark.parametrize("per_image", [False, True])
@sized("dtype", [torch.float32, torch.float64], interpreted=[torch.float32])
def test_a_nan_flags_its_image_and_class(
    machine: Machine, dtype: torch.dtype, activation: str, per_image: bool
) -> None:
    require(machine, "histogram", dtype)
    x, target, _ = sample((3, 2, 90), "labels", activation, dtype)
    target[0, 5] = 255
    x[0, :, 5] = torch.nan  # ignored
    x[1, 1, 7] = torch.nan
    if activation == "hinge":
        x[2, 0, 3], target[2, 3] = -(2.0**16), 0
    o = options_of(activation, per_image=per_image, ignore_index=255)
    found, exact = histogram(machine, x, target, o), reference.count(x, target, o)
    # Also of the bin of a NaN, which is the last.
    assert_counts(machine, found.counts, exact[0], o, dtype == torch.float64)
    assert torch.equal(found.rows[0], exact[1][0].double())
    results = [found]
    images = slice(None) if per_image else slice(1)
    expected = torch.zeros(3, 2, dtype=torch.bool)[images]
    where = 1 if per_image else 0
    expected[where, 0], expected[where, 1] = activation == "softmax", True
    if has(machine, "sort"):
        results.append(sort(machine, x, target, o))
        assert torch.equal(results[1].loss.isnan(), expected)
    if activation == "hinge":
        expected[2 if per_image else 0, 0] = True
    assert torch.equal(found.loss.isnan(), expected)
    assert torch.equal(found.table.isnan().all((2, 3)), expected)
    for result in results:
        nans = result.grad[1, 1].isnan()
        assert nans[7]
        assert nans.all() or activation == "hinge"  # 0 where there is no error
        assert (result.grad[0, :, 5] == 0).all()
        assert not per_image or result.grad[0].isfinite().all()


@by_method
def test_infinite_logits(machine: Machine, method: str) -> None:
    """As torch's sigmoid and softmax: certain, not NaN, except where infinities compete."""
    require(machine, method)
    x, target = inputs()
    x[0, 1, 0, 0] = x[0, 2, 1, 1] = -torch.inf
    for activation in ("softmax", "sigmoid"):
        for tensor in derive(machine, x, target, activation=activation, method=method):
            assert tensor.isfinite().all()
    x[0, 1, 0, 0] = torch.inf
    found = call(machine, x, target, activation="sigmoid", method=method).loss
    assert found.isfinite().all()
    assert call(machine, x, target, method=method).loss.isnan().all()  # inf - inf


@sized("classes", [2, 40], interpreted=[2, 40, 150])
def test_infinite_logits_of_a_softmax(machine: Machine, classes: int) -> None:
    labels = torch.zeros(1, 3, dtype=torch.uint8)
    for value in (torch.inf, -torch.inf, torch.nan):
        x = torch.zeros(1, classes, 3)
        x[0, 1 if value != -torch.inf else slice(None), 1] = value
        assert (count(machine, x, labels, options_of(bits=4))[1][0] == 1).all()


def test_large_errors_of_a_hinge(machine: Machine) -> None:
    """Those beyond the bins are flagged, the largest of the others counts in the last one."""
    o, below = options_of("hinge"), float(np.nextafter(np.float32(65536), np.float32(0)))
    values = [-1.0, -0.5, -2.0, 65534.0, 65535.0, 1e30, torch.inf, -torch.inf, 1e-20 - 1]
    x = torch.tensor([*values, below - 1]).view(1, 1, -1)
    target = torch.zeros(1, x.shape[-1], dtype=torch.uint8)
    counts, rows, _ = count(machine, x, target, o)
    exact, true_rows, _ = reference.count(x, target, o)
    assert torch.equal(counts[0].cpu(), exact[0])
    assert torch.equal(rows.cpu(), true_rows.double())
    assert rows[0].item() >= 3
    last = bins.number(o.octaves, o.bits) - 2 ** (o.bits - 1)  # up to 2^16
    assert counts[0, 0, 0, 0, last].item() == 5
    assert not count(machine, x[..., :4], target[..., :4], o)[1][0].any()
    if has(machine, "sort"):
        largest = sort(machine, x[..., :6], target[..., :6], o).loss
        assert largest.item() == torch.tensor(1e30).item()
    x, target = inputs()
    x[0, 0, 0, 0], target[0, 0, 0] = 1e5, 1
    options: Any = {"activation": "hinge"}
    found = call(machine, x, target, method="histogram", **options).loss
    assert found.isnan().tolist() == [[True, False, False]]
    if has(machine, "sort"):
        assert call(machine, x, target, method="sort", **options).loss.isfinite().all()


@by_activation
@sized("scale", [1e-3, 30.0, 300.0, 1e4], shim=[300.0])
@sized("classes", [1, 4], interpreted=[1, 4, 150])
def test_saturated_logits(machine: Machine, classes: int, scale: float, activation: str) -> None:
    """The loss equals the exact one, by sorting in float64, within the width of a bin."""
    if classes == 150 and (activation != "softmax" or scale != 30.0):
        pytest.skip("once is enough")
    generator = torch.Generator().manual_seed(1)
    x = scale * torch.randn((1, classes, 5, 7), generator=generator)
    target = torch.randint(0, max(classes, 2), (1, 5, 7), generator=generator)
    found, exact = (
        histogram(machine, x, target, options_of(activation)),
        reference.sort(x.double(), target, options_of(activation))[0],
    )
    width = 2.0**-8 * (1 + 5 * scale if activation == "hinge" else 0.5)
    if not (activation == "hinge" and scale == 1e4):
        assert (found.loss - exact).abs().max() < width
    fine = found.rows[0].eq(0).all()
    assert found.grad.isfinite().all() == fine
    assert found.table.isfinite().all() == fine


@by_activation
@sized("gap", [12.0, 17.0, 40.0, 80.0], interpreted=[17.0])
def test_both_sides_of_the_bins(machine: Machine, gap: float, activation: str) -> None:
    """1 - p keeps its digits where p rounds to 1; voxels may lie at the edge of a bin."""
    generator, voxels = torch.Generator().manual_seed(0), machine.pick(3000, interpreted=1000)
    target = torch.randint(0, 3, (1, voxels), generator=generator)
    hit = torch.where(torch.rand(1, voxels, generator=generator) < 0.9, target, (target + 1) % 3)
    x = torch.nn.functional.one_hot(hit, 3).movedim(-1, 1) * gap
    x = (x + torch.randn((1, 3, voxels), generator=generator)).float()
    for o in (options_of(activation), options_of(activation, bits=4)):
        ours, exact = histogram(machine, x, target, o), truth(x, target, o, "histogram")
        torch.testing.assert_close(ours.loss, exact.loss, rtol=2.0**-9, atol=1e-7)
        torch.testing.assert_close(ours.rows[1], exact.rows[1], rtol=1e-5, atol=1e-6)
        moved = (ours.counts[0] - exact.counts[0]).abs().sum() / 2
        assert moved <= 2e-3 * exact.counts[0].sum()
    if has(machine, "sort"):
        sorts, exact = sort(machine, x, target, o), truth(x, target, o, "sort")
        torch.testing.assert_close(sorts.loss, exact.loss, rtol=2e-6, atol=1e-9)


@on("native", "interpreted")  # in float32 the reference subtracts, CUDA C++ has 8 bits
def test_one_minus_p_of_a_nearly_certain_class_is_accurate(machine: Machine) -> None:
    """Errors of 1e-5 to 1e-9 go into bins of their own, and have gradients to seven digits."""
    o = options_of(bits=8, octaves=16)
    margins = torch.linspace(10, 21, 400)
    x = torch.stack([margins, torch.zeros(400), torch.zeros(400)])[None]
    target = torch.zeros(1, 400, dtype=torch.uint8)
    found, exact = histogram(machine, x, target, o), truth(x, target, o, "histogram")
    errors = 2 * torch.exp(-margins.double()) / (1 + 2 * torch.exp(-margins.double()))
    total = bins.error_sums(found.counts[0].double(), found.counts[1].double(), o)[0, 0, 1].sum()
    assert abs(total / errors.sum() - 1) < 1e-4
    worst = ((found.grad - exact.grad).abs() / exact.grad.abs().clamp_min(1e-30))[:, 0].max()
    assert worst < 1e-5


@sized("classes", [4], interpreted=[4, 40, 150], shim=[4, 40])
def test_a_class_masked_by_an_infinite_logit(machine: Machine, classes: int) -> None:
    o = options_of(bits=4, cross_entropy=False)
    x, labels, _ = sample((1, classes - 1, 3, 7), "labels", "softmax", torch.float32)
    plain = histogram(machine, x, labels, o)
    masked = torch.cat([x, torch.full_like(x[:, :1], -torch.inf)], 1)
    found = histogram(machine, masked, labels, o)
    assert torch.equal(found.counts[:, :, :-1], plain.counts)
    assert found.counts[0, 0, -1].sum() == found.counts[0, 0, -1, 0, 0] == 21
    assert found.grad.isfinite().all()
    assert (found.grad[:, -1] == 0).all()


@by_activation
@by_method
@pytest.mark.parametrize("per_image", [False, True])
def test_no_voxels_and_no_items(
    machine: Machine, method: str, activation: str, per_image: bool
) -> None:
    require(machine, method)
    for shape in [(0, 3, 4), (2, 3, 0), (2, 3, 4, 0, 5)]:
        x = machine.place(torch.randn(shape)).requires_grad_()
        labels = torch.zeros((shape[0], *shape[2:]), dtype=torch.int64)
        o: Any = {"activation": activation, "method": method, "per_image": per_image}
        sums = call(machine, x, labels, **o)
        assert sums.loss.shape == (shape[0] if per_image else 1, 3)
        assert (sums.loss == 0).all()
        assert (sums.weight == 0).all()
        (grad,) = torch.autograd.grad(sums.loss.sum(), x)
        assert grad.shape == shape
        found = solve(machine, method, x.detach(), labels, options_of(activation))
        assert not found.rows.any()


@on("reference", "native", "interpreted", "shim")  # a device has to hold what lies between
@by_method
@pytest.mark.parametrize("what", ["input", "target", "both"])
def test_offsets_past_2_to_the_31(machine: Machine, method: str, what: str) -> None:
    """Strides beyond 2^31 elements, over memory of which only the used pages exist."""
    require(machine, method)
    x, target, _ = sample((1, 2, 2, 4), "dense", "softmax", torch.float16)
    target, o = target.half(), options_of()
    expected = solve(machine, method, x, target, o)
    x = spread_out(x) if what != "target" else x
    target = spread_out(target) if what != "input" else target
    found = solve(machine, method, x, target, o)
    for name, value in found.tensors.items():
        if value.dtype.is_floating_point and value.numel():
            assert relative_l2(value, expected.tensors[name]) < 1e-6, name
        else:
            assert torch.equal(value, expected.tensors[name]), name


@by_activation
@by_method
@pytest.mark.parametrize("per_image", [False, True])
def test_every_output_is_written(
    machine: Machine, method: str, activation: str, per_image: bool
) -> None:
    """In deterministic mode torch fills fresh memory with NaN."""
    require(machine, method)
    x, target, _ = sample((2, 3, 7, 13), "labels", activation, torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        o = options_of(activation, per_image=per_image, ignore_index=1)
        found = solve(machine, method, x, target, o)
    finally:
        torch.use_deterministic_algorithms(False)
    for name in ("loss", "rows", "grad"):
        assert getattr(found, name).isfinite().all(), name
