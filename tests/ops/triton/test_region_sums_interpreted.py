"""The Triton kernels on the CPU: every option."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from segloss_fast._check import FLOATING, INTEGER
from segloss_fast.ops._triton import tiling
from segloss_fast.ops.region_sums import triton_launch
from segloss_fast.ops.region_sums.options import TERMS
from tests.helpers import relative_l2, relative_max
from tests.ops.one_class_cases import BAD_LABELS, BAD_VALUES, IGNORED, soft_mask, turned
from tests.ops.samples import ACTIVATIONS, sample
from tests.ops.test_region_sums import expected
from tests.ops.triton.common import EPSILON, LOSS_TERMS, check, options, ours
from tests.suite.tracing import followed


@pytest.mark.parametrize("kind", ["labels", "ignore", "dense"])
@pytest.mark.parametrize(
    ("activation", "ce_activation", "gamma"),
    [(*pair, gamma) for pair, gamma in zip(ACTIVATIONS, [0.0, 0.7, 1.0, 2.0, 3.5], strict=True)],
)
def test_every_term_and_gradient(
    activation: str, ce_activation: str, gamma: float, kind: str
) -> None:
    x, target, weight, ignore_index = sample((2, 5, 3, 7, 11), activation, kind)
    x = x.float()
    o = options(TERMS, activation, ce_activation, gamma, ignore_index)
    rows, _ = check(x, target, weight, o)
    formulas = {"activation": activation, "ce_activation": ce_activation, "gamma": gamma}
    by_definition = expected(x, target, weight, ignore_index, **formulas)
    for name, row, true_row in zip(TERMS, rows, by_definition, strict=True):
        assert relative_max(row, true_row) < 10 * EPSILON, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "probabilities"])
def test_half_precision(dtype: torch.dtype, activation: str) -> None:
    x, target, _, _ = sample((1, 3, 8, 9), activation, "labels")
    x = x.clamp(0.01, 0.99) if activation == "probabilities" else x
    check(x.to(dtype), target, None, options(TERMS, activation, gamma=0.7))


@pytest.mark.parametrize("kind", ["labels", "ignore", "dense"])
@pytest.mark.parametrize(
    "classes", [1, 2, 3, 4, 8, 14, 32, 33, 105, pytest.param(200, marks=followed), 300]
)
def test_number_of_classes(classes: int, kind: str) -> None:
    if classes in (3, 8, 33, 300) and kind != "labels":
        pytest.skip("once is enough")
    activation = "sigmoid" if classes == 1 else "softmax"
    x, target, weight, ignore_index = sample((2, classes, 3, 7), activation, kind)
    o = options(LOSS_TERMS, activation, gamma=1.5, ignore_index=ignore_index)
    check(x.float(), target, weight, o)


@pytest.mark.parametrize("classes", [17, 130])
def test_independent_classes_in_blocks(classes: int) -> None:
    x, target, _, _ = sample((2, classes, 2, 5), "sigmoid", "labels")
    check(x.float(), target, None, options((*LOSS_TERMS, "focal"), "sigmoid"))


def test_every_term_of_many_classes() -> None:
    for classes in (40, 140):
        x, target, _, _ = sample((1, classes, 5), "softmax", "labels")
        check(x.float(), target, None, options())


@pytest.mark.parametrize("size", [(1,), (63,), (64,), (2051,), (3, 1, 17), (4, 128)])
@pytest.mark.parametrize("classes", [2, 20])
def test_blocks_and_chunks(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, ...], classes: int
) -> None:
    """Few programs and short blocks, so that small volumes have several of everything."""
    monkeypatch.setattr(tiling, "BLOCK_TILES", 2)
    monkeypatch.setattr(tiling, "MAX_PROGRAMS", 4)
    monkeypatch.setattr(tiling, "MIN_PROGRAMS", 4)
    x, target, _, _ = sample((2, classes, *size), "softmax", "labels")
    check(x.float(), target, None, options(LOSS_TERMS))


def layouts() -> dict[str, tuple[Tensor, Tensor, Tensor | None]]:
    x, target, _, _ = sample((2, 4, 6, 8), "softmax", "labels")
    x = x.float()
    volume, labels, _, _ = sample((2, 3, 2, 4, 6), "softmax", "labels")
    volume = volume.float()
    weight = torch.rand(2, 4, 6, 8)
    last = torch.channels_last
    return {
        "channels-last": (x.to(memory_format=last), target, None),
        "channels-last, shared weight": (x.to(memory_format=last), target, weight[:, :1]),
        "channels-last, all": (
            x.to(memory_format=last),
            torch.rand_like(x).to(memory_format=last),
            weight.to(memory_format=last),
        ),
        "channels-last, weight not": (x.to(memory_format=last), target, weight),
        "channels-last volume": (
            volume.to(memory_format=torch.channels_last_3d),
            labels,
            None,
        ),
        "transposed": (x.transpose(2, 3), target.transpose(1, 2), None),
        "transposed volume": (volume.permute(0, 1, 4, 2, 3), labels.permute(0, 3, 1, 2), None),
        "labels transposed": (
            x,
            target.transpose(1, 2).contiguous().transpose(1, 2),
            None,
        ),
        "expanded": (x[:1, :, :1].expand(2, 4, 6, 8), target, weight[:, :1, :1].expand_as(x)),
        "offset": (torch.cat([x, x])[1:3], target, weight[..., :1].expand(2, 4, 6, 8)),
        "unaligned": (x.flatten()[1:337].view(2, 4, 6, 7), target[..., 1:], weight[..., 1:]),
        "every second": (torch.cat([x, x], 3)[..., ::2], target.repeat(1, 1, 2)[..., ::2], None),
    }


@pytest.mark.parametrize("name", layouts())
def test_strides(name: str) -> None:
    x, target, weight = layouts()[name]
    o = options(("tp", "pred", "target", "nll", "sq_err", "weight"))
    rows, grad = check(x, target, weight, o)
    same, same_grad = ours(
        x.contiguous(), target.contiguous(), None if weight is None else weight.contiguous(), o
    )
    assert relative_max(rows, same) < 10 * EPSILON
    assert relative_l2(grad, same_grad) < 5 * EPSILON


@pytest.mark.parametrize("dtype", [*INTEGER, *FLOATING], ids=str)
def test_targets_of_any_dtype(dtype: torch.dtype) -> None:
    classes = 2 if dtype == torch.bool else 5
    x, target, _, _ = sample((2, classes, 5, 9), "softmax", "labels")
    x = x.float()
    o = options(LOSS_TERMS)
    rows, grad = ours(x, target, None, o)
    assert all(map(torch.equal, ours(x, target.to(dtype), None, o), (rows, grad)))
    values = torch.nn.functional.one_hot(target, classes).movedim(-1, 1)
    dense, dense_grad = ours(x, values.to(dtype), None, o)
    assert relative_max(dense, rows) < 5 * EPSILON
    assert relative_l2(dense_grad, grad) < 5 * EPSILON
    if dtype != torch.bool:
        target[0, :3] = 100
        o = replace(o, ignore_index=100)
        rows, grad = ours(x, target, None, o)
        assert all(map(torch.equal, ours(x, target.to(dtype), None, o), (rows, grad)))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_weights_of_any_dtype(dtype: torch.dtype) -> None:
    x, target, _, _ = sample((2, 3, 5, 9), "softmax", "labels")
    for classes in (1, 3):
        check(x.float(), target, torch.randn(2, classes, 5, 9).to(dtype), options(LOSS_TERMS))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_values_of_one_class(dtype: torch.dtype) -> None:
    case = soft_mask((17, 41), dtype)
    weight = torch.rand(case.values.shape, generator=torch.Generator().manual_seed(1))
    o = options(TERMS, "sigmoid", ignore_index=IGNORED)
    wanted = ours(case.clean.float(), case.values, weight * case.kept, options(TERMS, "sigmoid"))
    check(case.clean.float(), case.target, weight, o)
    for target in (case.target, turned(case.target)):
        rows, grad = ours(case.input.float(), target, weight, o)
        assert relative_max(rows, wanted[0]) < 10 * EPSILON
        assert relative_l2(grad, wanted[1] * case.kept) < 10 * EPSILON
        assert not grad[~case.kept].any()


@pytest.mark.parametrize(("bad", "shown"), BAD_VALUES)
def test_values_outside_of_zero_to_one_are_counted(bad: float, shown: str) -> None:
    case = soft_mask((17, 41))
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        target = case.values.to(dtype)
        target[1, 0, 7, 7], target[1, 0, 16, 40] = bad, 3
        for ignored, count in ((None, 2), (3, 1)):
            for t in (target, turned(target)):
                o = options(("tp", "nll"), "sigmoid", ignore_index=ignored)
                rows, invalid = triton_launch.forward(case.clean.float(), t, None, o)
                assert rows.isnan().all()
                assert [invalid[0].item(), f"{invalid[1].item():.16g}"] == [count, shown]


@pytest.mark.parametrize(("dtype", "bad"), BAD_LABELS)
def test_labels_of_one_class(dtype: torch.dtype, bad: int) -> None:
    case = soft_mask((17, 41))
    labels = case.values[:, 0].round().to(dtype)
    check(case.clean.float(), labels, None, options(TERMS, "sigmoid"))
    labels[1, 7, 7] = bad
    for ignored in (None, bad):
        o = options(TERMS, "sigmoid", ignore_index=ignored)
        rows, invalid = triton_launch.forward(case.clean.float(), labels, None, o)
        assert bool(rows.isnan().all()) == (ignored is None)
        assert invalid.tolist() == ([1, bad] if ignored is None else [0, 0])
