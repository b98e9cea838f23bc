"""lovasz's Triton kernels on the CPU: every option."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from segloss_fast._check import FLOATING, INTEGER
from segloss_fast.ops.lovasz import reference, triton_launch, triton_plan
from segloss_fast.ops.lovasz.bins import DEFAULT
from segloss_fast.ops.lovasz.options import ACTIVATIONS, Options
from tests.helpers import relative_l2
from tests.ops.lovasz_collapsed import (
    assert_near_a_sort,
    binned_hinge,
    by_spread,
    collapsed,
    hinge_logits,
    nearly_kept,
    place,
)
from tests.ops.one_class_cases import BAD_LABELS, BAD_VALUES, IGNORED, soft_mask, turned
from tests.ops.triton.lovasz_problems import (
    check,
    count,
    options,
    ours,
    sample,
    with_ignored,
)
from tests.suite.tracing import followed


@pytest.mark.parametrize("kind", ["labels", "ignore", "dense"])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_counts_and_gradient(activation: str, per_image: bool, kind: str) -> None:
    o = options(activation, per_image=per_image)
    o = with_ignored(o) if kind == "ignore" else o
    check(*sample((2, 4, 3, 7, 11), kind, o), o)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@by_spread
def test_predictions_collapsed_to_one_value(activation: str, spread: float) -> None:
    x, target = collapsed(activation, spread, 0.3, 3000)
    o = options(activation, *DEFAULT, cross_entropy=False)
    counts, rows, _ = count(x, target, o)
    loss, table = reference.scan(counts, rows, o, torch.float32)
    place = ACTIVATIONS.index(activation)
    grad = triton_launch.backward(table, None, x, target, place, o.octaves, o.bits, None)
    assert_near_a_sort(loss, grad, x, target, activation)


@pytest.mark.parametrize("bits", [1, 7, 10])
def test_hinge_errors_have_the_reference_s_bins(bits: int) -> None:
    x, target = hinge_logits()
    for octaves in (9, 16):
        o = options("hinge", octaves, bits)
        assert torch.equal(count(x, target, o)[0], reference.count(x, target, o)[0])


@pytest.mark.parametrize("bits", [1, 7, 10])
def test_small_hinge_errors(bits: int) -> None:
    x, target = nearly_kept(1e-3, 0.3, 3000)
    o = options("hinge", 12, bits, cross_entropy=False)
    counts, rows, _ = count(x, target, o)
    loss, table = reference.scan(counts, rows, o, torch.float32)
    true, true_grad = binned_hinge(x, target, 12, bits)
    assert abs(loss.item() - true.item()) < place(bits)
    activation = ACTIVATIONS.index("hinge")
    grad = triton_launch.backward(table, None, x, target, activation, 12, bits, None)
    assert relative_l2(grad, true_grad) < 1e-6


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_without_cross_entropy(activation: str) -> None:
    o = options(activation, cross_entropy=False)
    _, rows, _ = check(*sample((2, 3, 4, 9), "labels", o), o)
    assert not rows.any()


@pytest.mark.parametrize(("octaves", "bits"), [(9, 1), (9, 6), (13, 4), (16, 3), (16, 8), (11, 10)])
@pytest.mark.parametrize("activation", ["softmax", "hinge"])
def test_numbers_of_bins(activation: str, octaves: int, bits: int) -> None:
    # In narrow bins float32 errors are not far from any edge: half precision has fewer of them.
    o = options(activation, octaves, bits)
    if bits <= 8:
        check(*sample((1, 2, 5, 9), "labels", o), o)
    else:
        x, target = sample((1, 2, 5, 9), "labels", replace(o, bits=7))
        counts, _, _ = ours(x, target, o)
        # Eight bins become one, but for the hinge's bin 0, which is for no error.
        ends = (7, 1) if activation == "hinge" else (0, 0)
        found = torch.nn.functional.pad(counts[0], ends).unflatten(-1, (-1, 8)).sum(-1)
        coarse = count(x, target, replace(o, bits=7))[0][0]
        assert torch.equal(found[..., : coarse.shape[-1]], coarse)
        assert not found[..., coarse.shape[-1] :].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_half_precision(dtype: torch.dtype, activation: str) -> None:
    o = options(activation)
    check(*sample((2, 3, 8, 9), "labels", o, dtype), o)


@pytest.mark.parametrize("kind", ["labels", "ignore", "dense"])
@pytest.mark.parametrize(
    "classes", [1, 2, 3, 4, 8, 14, 32, 70, 105, pytest.param(130, marks=followed), 200]
)
def test_number_of_classes(classes: int, kind: str) -> None:
    if classes in (3, 8, 32, 105) and kind != "labels":
        pytest.skip("once is enough")
    o = options("sigmoid" if classes == 1 else "softmax", bits=5)
    o = with_ignored(o) if kind == "ignore" else o
    check(*sample((2, classes, 3, 7), kind, o), o)


@pytest.mark.parametrize("activation", ["sigmoid", "hinge"])
@pytest.mark.parametrize("classes", [1, 17, 40])
def test_independent_classes_in_blocks(classes: int, activation: str) -> None:
    o = options(activation, bits=5)
    check(*sample((2, classes, 2, 5), "labels", o), o)


# Every size with classes in registers; more classes have smaller tiles, and take longer.
BLOCKS = [(2, size) for size in ((1,), (127,), (128,), (2051,), (3, 1, 17))]
BLOCKS += [(20, size) for size in ((1,), (127,), (515,), (3, 1, 17))]
BLOCKS += [(140, size) for size in ((33,), (3, 1, 17))]


@pytest.mark.parametrize(("classes", "size"), BLOCKS, ids=str)
def test_blocks_chunks_and_replicas(
    monkeypatch: pytest.MonkeyPatch, classes: int, size: tuple[int, ...]
) -> None:
    """Few programs and short blocks, so that small volumes have several of everything."""
    o = options(per_image=len(size) == 1)
    x, target = sample((2, classes, *size), "labels", options())
    alone = ours(x, target, o)
    monkeypatch.setattr(triton_plan, "BLOCK_TILES", 2)
    monkeypatch.setattr(triton_plan, "MAX_PROGRAMS", 6)
    monkeypatch.setattr(triton_plan, "MAX_REPLICAS", 2)
    counts, _, grad = check(x, target, o)
    assert torch.equal(counts, alone[0])
    assert torch.equal(grad, alone[2])


def layouts() -> dict[str, tuple[Tensor, Tensor]]:
    x, target = sample((2, 4, 6, 8), "labels", options())
    volume, labels = sample((2, 3, 2, 4, 6), "labels", options())
    wide, few = sample((1, 40, 3, 8), "labels", options())
    last = torch.channels_last
    return {
        "channels-last": (x.to(memory_format=last), target),
        "channels-last, 40 classes": (wide.to(memory_format=last), few),
        "channels-last, dense": (
            x.to(memory_format=last),
            torch.rand_like(x).to(memory_format=last),
        ),
        "channels-last, dense not": (x.to(memory_format=last), torch.rand_like(x).contiguous()),
        "channels-last volume": (volume.to(memory_format=torch.channels_last_3d), labels),
        "transposed": (x.transpose(2, 3), target.transpose(1, 2)),
        "transposed volume": (volume.permute(0, 1, 4, 2, 3), labels.permute(0, 3, 1, 2)),
        "labels transposed": (x, target.transpose(1, 2).contiguous().transpose(1, 2)),
        "expanded": (x[:1, :, :1].expand(2, 4, 6, 8), target),
        "offset": (torch.cat([x, x])[1:3], target),
        "unaligned": (x.flatten()[1:337].view(2, 4, 6, 7), target[..., 1:]),
        "every second": (torch.cat([x, x], 3)[..., ::2], target.repeat(1, 1, 2)[..., ::2]),
    }


@pytest.mark.parametrize("name", layouts())
def test_strides(name: str) -> None:
    x, target = layouts()[name]
    o = options()
    counts, rows, grad = ours(x, target, o)
    same, same_rows, same_grad = ours(x.contiguous(), target.contiguous(), o)
    assert torch.equal(counts, same)
    torch.testing.assert_close(rows, same_rows, rtol=1e-6, atol=0)
    assert torch.equal(grad, same_grad)
    assert grad.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("dtype", [*INTEGER, *FLOATING], ids=str)
def test_targets_of_any_dtype(dtype: torch.dtype) -> None:
    classes = 2 if dtype == torch.bool else 5
    o = options()
    x, target = sample((2, classes, 5, 9), "labels", o)
    expected = ours(x, target, o)
    assert all(map(torch.equal, ours(x, target.to(dtype), o), expected))
    values = torch.nn.functional.one_hot(target, classes).movedim(-1, 1)
    assert all(map(torch.equal, ours(x, values.to(dtype), o), expected))
    if dtype != torch.bool:
        target[0, :3] = 100
        o = replace(o, ignore_index=100)
        assert all(map(torch.equal, ours(x, target.to(dtype), o), ours(x, target, o)))


def test_dense_targets_are_foreground_above_one_half() -> None:
    o = Options("sigmoid", "histogram", 12, 7, False, None, False)
    x = torch.zeros(1, 2, 4, dtype=torch.float32)
    values = torch.tensor([0.5, 0.5 + 1e-12, torch.nan, 7.0], dtype=torch.float64)
    target = values.expand(1, 2, 4)
    counts, _, _ = count(x, target, o)
    assert counts[0].sum(-1).tolist() == [[[2, 2], [2, 2]]]
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        counts, _, _ = count(x, target.to(dtype), o)
        assert counts[0].sum(-1).tolist() == [[[3, 1], [3, 1]]]


@pytest.mark.parametrize("activation", ["sigmoid", "hinge"])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_values_of_one_class(activation: str, dtype: torch.dtype) -> None:
    case = soft_mask((17, 41), dtype)
    x = case.input.float()
    o = options(activation, ignore_index=IGNORED)
    labels = torch.where(case.kept, (case.values > 0.5).long(), IGNORED)[:, 0]
    wanted = ours(x, labels, o)
    for target in (case.target, turned(case.target)):
        assert all(map(torch.equal, ours(x, target, o), wanted))
    plain = options(activation)
    for bad, shown in BAD_VALUES:
        target = case.values.to(dtype)
        target[1, 0, 7, 7], target[1, 0, 16, 40] = bad, 3
        for which, number in ((plain, 2), (replace(plain, ignore_index=3), 1)):
            _, rows, invalid = count(case.clean.float(), target, which)
            assert rows[0].isnan().all()
            assert [invalid[0].item(), f"{invalid[1].item():.16g}"] == [number, shown]


@pytest.mark.parametrize(("dtype", "bad"), BAD_LABELS)
def test_labels_of_one_class(dtype: torch.dtype, bad: int) -> None:
    case = soft_mask((17, 41))
    labels = case.values[:, 0].round().to(dtype)
    counts, _, invalid = count(case.clean.float(), labels, options("sigmoid"))
    assert counts[0].sum(-1).tolist() == [[[int((labels == c).sum()) for c in (0, 1)]]]
    assert invalid.tolist() == [0, 0]
    labels[1, 7, 7] = bad
    _, rows, invalid = count(case.clean.float(), labels, options("sigmoid"))
    assert rows[0].isnan().all()
    assert invalid.tolist() == [1, bad]
