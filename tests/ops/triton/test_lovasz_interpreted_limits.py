"""lovasz's Triton kernels on the CPU: labels, memory, limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from segloss_fast._check import FLOATING
from segloss_fast.ops._triton.views import Tensors
from segloss_fast.ops.lovasz import bins, reference, triton_launch, triton_plan
from segloss_fast.ops.lovasz.options import ACTIVATIONS
from tests.helpers import relative_l2
from tests.ops.triton.lovasz_problems import (
    BAD_LABEL,
    count,
    gradient,
    options,
    ours,
    sample,
    truth,
    with_ignored,
)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_ignored_voxels_may_hold_anything(activation: str, bad: float) -> None:
    o = with_ignored(options(activation))
    x, target = sample((2, 4, 5, 7), "ignore", o)
    clean = ours(x, target, o)
    x[(target == BAD_LABEL)[:, None].expand_as(x)] = bad
    assert all(map(torch.equal, ours(x, target, o), clean))
    counts, rows, grad = ours(x, torch.full_like(target, BAD_LABEL), o)
    assert not counts.any()
    assert not rows.any()
    assert not grad.any()


@pytest.mark.parametrize(
    ("dtype", "bad"),
    [
        (torch.uint8, 255),
        (torch.int8, -1),
        (torch.int16, 3),
        (torch.int64, 2**40),
        (torch.int64, 2**32 + 1),
        (torch.float16, 1.5),
        (torch.float32, float("nan")),
        (torch.float64, -0.5),
    ],
    ids=str,
)
@pytest.mark.parametrize("classes", [3, 130])
def test_labels_out_of_range(dtype: torch.dtype, bad: float, classes: int) -> None:
    if classes == 130 and bad not in (255, -1, 2**40):
        pytest.skip("not out of range, or once is enough")
    space = (7, 41) if classes == 3 else (3, 9)  # many classes have small tiles
    labels = torch.zeros(2, *space, dtype=dtype)
    x = torch.randn(2, classes, *space)
    labels[1, 2, 7] = bad
    o = options(bits=2)
    for strided in (labels, labels.transpose(1, 2).contiguous().transpose(1, 2)):
        counts, rows, invalid = count(x, strided, o)
        assert rows.isnan().all()
        np.testing.assert_equal(invalid.tolist(), [1, bad])
        # Background of all classes.
        assert counts[0].sum((-1, -2)).unique().tolist() == [labels.numel()]
        assert counts[0, 0, :, 1].sum().item() == labels.numel() - 1
        loss, _ = reference.scan(counts, rows, o, torch.float32)
        assert loss.isnan().all()
    _, rows, invalid = count(x[:1], labels[:1], o)
    assert invalid.tolist() == [0, 0]
    assert rows.isfinite().all()


def test_empty_problems() -> None:
    for shape in ((0, 3, 4, 5), (2, 3, 0, 5)):
        x = torch.zeros(shape)
        target = torch.zeros((shape[0], *shape[2:]), dtype=torch.int64)
        for per_image in (False, True):
            o = options(per_image=per_image)
            counts, rows, grad = ours(x, target, o)
            true_counts, true_rows, _ = truth(x, target, o)
            assert torch.equal(counts, true_counts)
            assert torch.equal(rows, true_rows)
            assert grad.shape == shape


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("per_image", [False, True])
def test_a_nan_is_flagged_where_it_counts(activation: str, per_image: bool) -> None:
    o = options(activation, per_image=per_image)
    x, target = sample((2, 3, 5, 7), "labels", o)
    x[1, 2, 3, 4] = torch.nan
    counts, rows, _ = count(x, target, o)
    true_counts, true_rows, _ = reference.count(x, target, o)
    assert torch.equal(rows[0], true_rows[0])
    assert torch.equal(counts[0], true_counts[0])  # also of the bin, which is the last
    grad = gradient(x, target, o, counts, rows)
    _, _, true_grad = truth(x, target, o)
    assert torch.equal(grad.isnan(), true_grad.isnan())
    assert grad.isnan().any()


@pytest.mark.parametrize("classes", [2, 40, 150])
def test_infinite_logits_of_a_softmax(classes: int) -> None:
    o = options(bits=4)
    labels = torch.zeros(1, 3, dtype=torch.uint8)
    for value in (torch.inf, -torch.inf, torch.nan):
        x = torch.zeros(1, classes, 3)
        x[0, 1 if value != -torch.inf else slice(None), 1] = value
        _, rows, _ = count(x, labels, o)
        assert (rows[0] == 1).all()


def test_large_errors_of_a_hinge() -> None:
    o = options("hinge")
    below = float(np.nextafter(np.float32(65536), np.float32(0)))
    values = [-1.0, -0.5, -2.0, 65534.0, 65535.0, 1e9, torch.inf, -torch.inf, 1e-20 - 1]
    x = torch.tensor([*values, below - 1]).view(1, 1, -1)
    target = torch.zeros(1, x.shape[-1], dtype=torch.uint8)
    counts, rows, _ = count(x, target, o)
    true_counts, true_rows, _ = reference.count(x, target, o)
    assert torch.equal(counts, true_counts)
    assert torch.equal(rows, true_rows)
    assert rows[0].item() >= 3
    _, rows, _ = count(x[..., :4], target[..., :4], o)
    assert not rows[0].any()


@pytest.mark.parametrize("logit", [0.0, 20.0, 200.0, -200.0, -9.0, 2.0**-126])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_all_errors_in_one_bin(
    monkeypatch: pytest.MonkeyPatch, activation: str, logit: float
) -> None:
    """Blocks as long as they come, so that what is kept in registers is full."""
    monkeypatch.setattr(triton_plan, "MAX_PROGRAMS", 1)
    o = options(activation)
    x = torch.zeros(1, 2, 10000)
    x[:, 0] = logit
    target = torch.zeros(1, 10000, dtype=torch.uint8)
    target[:, ::3] = 1
    counts, rows, grad = ours(x, target, o)
    true_counts, true_rows, true_grad = truth(x.float(), target, o)
    assert torch.equal(counts[0], true_counts[0])
    # The offset of each voxel, of 65536, is right but for float32's rounding.
    assert ((counts[1] - true_counts[1]).abs() <= 20 * counts[0]).all()
    torch.testing.assert_close(rows, true_rows, rtol=1e-6, atol=0)
    assert relative_l2(grad, true_grad) < 1e-6


@pytest.mark.parametrize("scale", [1e-3, 30.0, 300.0, 1e4])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("classes", [1, 4, 150])
def test_saturated_logits(scale: float, activation: str, classes: int) -> None:
    """The loss equals the exact one, by sorting in float64, within the width of a bin."""
    if classes == 150 and (activation != "softmax" or scale != 30.0):
        pytest.skip("once is enough")
    generator = torch.Generator().manual_seed(1)
    x = scale * torch.randn((1, classes, 5, 7), generator=generator)
    target = torch.randint(0, max(classes, 2), (1, 5, 7), generator=generator)
    o = options(activation)
    counts, rows, _ = count(x, target, o)
    loss, table = reference.scan(counts, rows, o, torch.float32)
    exact, *_ = reference.sort(x.double(), target, o)
    width = 2.0**-8 * (1 + 5 * scale if activation == "hinge" else 0.5)
    if not (activation == "hinge" and scale == 1e4):
        assert (loss - exact).abs().max() < width
    grad = gradient(x, target, o, counts, rows)
    assert grad.isfinite().all() == rows[0].eq(0).all()
    assert table.isfinite().all() == rows[0].eq(0).all()


def test_one_minus_p_of_a_nearly_certain_class_is_accurate() -> None:
    """Errors of 1e-5 to 1e-9 go into bins of their own, and have gradients to seven digits."""
    o = replace(options(bits=8, octaves=16), cross_entropy=True)
    margins = torch.linspace(10, 21, 400)
    x = torch.stack([margins, torch.zeros(400), torch.zeros(400)])[None]
    target = torch.zeros(1, 400, dtype=torch.uint8)
    counts, rows, _ = count(x, target, o)
    errors = 2 * torch.exp(-margins.double()) / (1 + 2 * torch.exp(-margins.double()))
    total = bins.error_sums(counts[0].double(), counts[1].double(), o)[0, 0, 1].sum()
    assert abs(total / errors.sum() - 1) < 1e-4
    grad = gradient(x, target, o, counts, rows)
    _, _, true_grad = truth(x, target, o)
    sizes = true_grad.abs()
    worst = ((grad - true_grad).abs() / sizes.clamp_min(1e-30))[:, 0].max()
    assert worst < 1e-5


@pytest.mark.parametrize("classes", [4, 40, 150])
def test_a_class_masked_by_an_infinite_logit(classes: int) -> None:
    o = options(bits=4)
    x, labels = sample((1, classes - 1, 3, 7), "labels", o)
    plain, _, plain_grad = ours(x, labels, o)
    masked = torch.cat([x, torch.full_like(x[:, :1], -torch.inf)], 1)
    counts, rows, _ = count(masked, labels, o)
    assert torch.equal(counts[:, :, :-1], plain)
    assert counts[0, 0, -1].sum() == counts[0, 0, -1, 0, 0] == 21
    grad = gradient(masked, labels, replace(o, cross_entropy=False), counts, rows)
    assert grad.isfinite().all()
    assert (grad[:, -1] == 0).all()
    assert plain_grad.shape[1] == classes - 1


@pytest.mark.parametrize("classes", [3, 40, 150])
def test_every_value_is_written_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, classes: int
) -> None:
    """Uninitialised memory is not zero, and lies around the gradient; two runs agree."""
    monkeypatch.setattr(triton_plan, "MAX_PROGRAMS", 2)
    o = with_ignored(options(bits=4))
    x, target = sample((1, classes, 7, 41 if classes == 3 else 5), "ignore", o)
    torch.use_deterministic_algorithms(True)
    try:
        first = ours(x, target, o)
        again = ours(x, target, o)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, first, again))
    assert not any(tensor.isnan().any() for tensor in first)
    around = torch.full((3, *x.shape), torch.nan)
    coefficients = torch.ones(1, classes, 2, bins.number(o.octaves, o.bits))
    what = (0, o.octaves, o.bits)
    arguments = (coefficients, None, x, target, what, BAD_LABEL)
    triton_launch.backward_launch(around[1], *arguments)()
    assert around[1].isfinite().all()
    assert around[::2].isnan().all()


@pytest.mark.parametrize("what", ["input", "target", "both"])
def test_offsets_past_2_to_the_31(what: str) -> None:
    """Strides beyond 2^31 elements, over memory of which only the used pages exist."""
    o = options()
    x, target = sample((1, 2, 2, 4), "dense", o, torch.float16)
    target = target.half()
    expected = ours(x, target, o)

    def spread(tensor: Tensor) -> Tensor:
        far = 2**31 + 8
        storage = torch.empty(far + 16, dtype=torch.float16)
        return storage.as_strided((1, 2, 2, 4), (2 * far, far, 4, 1)).copy_(tensor)

    x = spread(x) if what != "target" else x
    target = spread(target) if what != "input" else target
    assert all(map(torch.equal, ours(x, target, o), expected))


def test_incoming_gradients_of_any_strides() -> None:
    o = options(per_image=True)
    x, target = sample((2, 3, 5, 7), "labels", o)
    table = torch.randn(2, 2, 3, 6144).transpose(1, 2)
    grad_ce = torch.randn(3, 2, dtype=torch.float64).mT
    tail = (x, target, 0, 12, 7, None)
    strided = triton_launch.backward(table, grad_ce, *tail)
    dense = triton_launch.backward(table.contiguous(), grad_ce.contiguous(), *tail)
    assert torch.equal(strided, dense)


@pytest.mark.parametrize("dtype", [d for d in FLOATING if d != torch.float64], ids=str)
@pytest.mark.parametrize("activation", [True, False])
def test_counters_and_registers_are_large_enough(dtype: torch.dtype, activation: bool) -> None:
    """Of any number of voxels: by the plans of huge tensors, of which there is no memory."""
    sizes = ((1, 1, 1), (64, 64, 64), (512, 512, 512), (1, 2**20, 2**14), (2**12, 2**12, 2**12))
    for classes in (1, 2, 4, 16, 17, 100, 300):
        for batch in (1, 7, 5000):
            for size in sizes:
                x = torch.empty(1, dtype=dtype, device="meta").expand(batch, classes, *size)
                if x.numel() > 2**42:
                    continue
                target = torch.empty(1, dtype=torch.uint8, device="meta").expand(batch, *size)
                tensors = Tensors(x, target, None)
                plan = triton_plan.count_plan(tensors, activation)
                counters = classes * 2 * 6144
                replicas = triton_plan.replicas(tensors, plan, counters)
                programs = batch * plan.chunks
                tiles = -(-tensors.voxels // plan.block_v)
                voxels = -(-tiles // plan.chunks) * plan.block_v
                # The programs of a replica are every so many-th: at most this many voxels.
                assert -(-programs // replicas) * voxels < 2**24
                assert triton_plan.BLOCK_TILES * plan.fold < 256
                assert plan.chunks <= tiles
                assert (programs * plan.class_blocks) < 2**31
