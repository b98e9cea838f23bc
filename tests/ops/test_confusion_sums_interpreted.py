"""Tests of confusion_sums' Triton kernels under Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import segloss_fast
from segloss_fast import backends
from segloss_fast._check import FLOATING, INTEGER
from segloss_fast.ops._operator import preference
from segloss_fast.ops._triton.views import Tensors
from segloss_fast.ops.confusion_sums import confusion_sums, triton_launch, triton_plan
from tests.helpers import gradient, relative_l2
from tests.ops.confusion_sums_cases import (
    ACTIVATIONS,
    IGNORED,
    KINDS,
    WEIGHTS,
    case_of,
    check,
    far_apart,
)
from tests.ops.distance_transform_cases import LAYOUTS, lay_out
from tests.suite.tracing import followed

pytestmark = [
    # Of the interpreter's arithmetic with NaN and infinity, which the tests are about.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.usefixtures("new_tensors_are_nan"),
]

OUT_OF_RANGE = (
    *((torch.uint8, 255), (torch.int64, 2**32 + 1)),
    *((torch.int8, -1), (torch.int32, -(2**31)), (torch.float32, 1.5), (torch.float16, torch.nan)),
)


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small volumes have several of everything."""
    monkeypatch.setattr(triton_plan, "BLOCK_TILES", 2)
    monkeypatch.setattr(triton_plan, "MAX_PROGRAMS", 4)
    monkeypatch.setattr(triton_plan, "MIN_PROGRAMS", 4)


@pytest.fixture
def several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 20 classes be too many for a tile, as more than 128 are."""
    monkeypatch.setattr(triton_plan, "MOST_CLASSES", 16)
    monkeypatch.setattr(triton_plan, "BLOCK_C", 16)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [2, 8, 9, 16, 17])
def test_number_of_classes(classes: int, kind: str) -> None:
    check(case_of(classes, (3, 4), kind, "shared" if classes % 2 else "none"))


@pytest.mark.parametrize(("classes", "kind"), [(105, "dense"), (130, "labels")])
def test_many_classes(classes: int, kind: str) -> None:
    check(case_of(classes, (3,), kind))


@pytest.mark.usefixtures("several_blocks")
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("kind", "weight"), [("ignored", "classes"), ("dense", "shared")])
def test_more_classes_than_a_tile_has(kind: str, weight: str, activation: str) -> None:
    check(case_of(20, (35,), kind, weight, activation))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [3, 11])
def test_options(classes: int, kind: str, weight: str, activation: str) -> None:
    check(case_of(classes, (13,), kind, weight, activation))


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize(
    ("classes", "size"),
    [
        *((4, size) for size in ((1,), (511,), (513,), (4, 512), (5, 1001))),
        *((10, size) for size in ((31,), (32,), (33,), (2, 81))),
    ],
    ids=str,
)
def test_blocks_and_chunks(classes: int, size: tuple[int, ...]) -> None:
    case = case_of(classes, size, "ignored")
    found, grad = check(case)
    again, again_grad = case.solve("triton")
    assert torch.equal(again, found)
    assert torch.equal(again_grad, grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("classes", [3, 9])
def test_dtypes_and_layouts(dtype: torch.dtype, classes: int) -> None:
    case = case_of(classes, (1, 3, 8), "labels", "classes")
    for layout in LAYOUTS:
        x = lay_out(case.x.to(dtype), layout)
        other = "contiguous" if layout == "expanded" else layout
        assert case.weight is not None
        weight, target = lay_out(case.weight, layout), lay_out(case.target, other)
        check(replace(case, x=x, weight=weight, target=target))
        dense = replace(case, x=x, weight=weight[:, :1], target=lay_out(case.weight.abs(), layout))
        check(dense)


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, *INTEGER, *FLOATING[:-1], pytest.param(FLOATING[-1], marks=followed)],
    ids=str,
)
def test_targets_and_weights_of_any_dtype(dtype: torch.dtype) -> None:
    for classes, size in ((2, (5, 9)), (10, (3, 4))):
        case = case_of(classes, size)
        case = replace(case, target=case.target % 2)
        expected = case.solve("triton")
        same = replace(case, target=case.target.to(dtype))
        assert all(map(torch.equal, same.solve("triton"), expected))
        values = torch.nn.functional.one_hot(case.target, classes).movedim(-1, 1)
        check(replace(case, target=values.to(dtype)))
        if dtype in FLOATING:
            check(replace(case, weight=torch.rand_like(case.x).to(dtype)))
            check(replace(case, weight=torch.rand_like(case.x[:, :1]).to(dtype)))


@pytest.mark.usefixtures("several_blocks")
@pytest.mark.parametrize("classes", [3, 9, 20])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_ignored_voxels_may_hold_anything(classes: int, bad: float) -> None:
    case = case_of(classes, (13,), "ignored", "classes")
    sums, grad = case.solve("triton")
    x, weight = case.x.clone(), case.weight
    assert weight is not None
    x[(case.target == IGNORED)[:, None].expand_as(x)] = bad
    weight = weight.masked_fill((case.target == IGNORED)[:, None], bad)
    found, found_grad = replace(case, x=x, weight=weight).solve("triton")
    assert torch.equal(found, sums)
    assert torch.equal(found_grad, grad)
    options = (weight, 0, IGNORED)
    grad = triton_launch.backward(torch.full_like(sums, torch.nan), x, case.target, *options)
    assert not grad.movedim(1, -1)[case.target == IGNORED].any()
    nothing = replace(case, x=x, target=torch.full_like(case.target, IGNORED))
    for tensor in nothing.solve("triton"):
        assert not tensor.any()


@pytest.mark.usefixtures("several_blocks")
@pytest.mark.parametrize("classes", [3, 9, 20])
def test_logits_that_are_not_finite(classes: int) -> None:
    case = case_of(classes, (6,))
    x = case.x.clone()
    x[0, :-1, 0] = -torch.inf  # a softmax still
    x[0, 1, 1] = -torch.inf
    x[0, :, 2] *= 1e4
    check(replace(case, x=x))
    clean, clean_grad = replace(case, x=x).solve("triton")
    for value in (torch.nan, torch.inf):
        x[1, 1, 3] = value
        label = int(case.target[1, 3])
        sums, grad = replace(case, x=x).solve("triton")
        assert sums[1, label, :-1].isnan().all()
        assert torch.equal(sums[0], clean[0])
        assert torch.equal(sums[..., -1], clean[..., -1])
        assert grad[1, :, 3].isnan().all()
        grad[1, :, 3] = clean_grad[1, :, 3] = 0
        assert torch.equal(grad, clean_grad)
    x[1, :, 3] = -torch.inf
    assert replace(case, x=x).solve("triton")[1][1, :, 3].isnan().all()


@pytest.mark.usefixtures("few_programs", "several_blocks")
@pytest.mark.parametrize(
    ("classes", "size", "dtype", "bad"),
    [
        *((3, (19, 71), *kind) for kind in OUT_OF_RANGE),
        *((9, (5, 15), *kind) for kind in OUT_OF_RANGE[:2]),
        (20, (5, 13), *OUT_OF_RANGE[1]),
    ],
    ids=str,
)
def test_labels_out_of_range(
    classes: int, size: tuple[int, ...], dtype: torch.dtype, bad: float
) -> None:
    case = case_of(classes, size, weight="classes")
    labels = (case.target % 3).to(dtype)
    labels[1, 3, 7], labels[1, 4, 12] = bad, 99
    for target in (labels, labels.mT.contiguous().mT):
        _, invalid = triton_launch.forward(case.x, target, case.weight, 0, None)
        np.testing.assert_equal(invalid.tolist(), [2, bad])
    grad_sums = torch.ones(2, classes, classes + 1)
    grad = triton_launch.backward(grad_sums, case.x, labels, case.weight, 0, None)
    assert not grad[1, :, 3, 7].any()
    _, invalid = triton_launch.forward(case.x, labels, None, 0, 99)
    np.testing.assert_equal(invalid.tolist(), [1, bad])
    with pytest.raises(ValueError, match="got 1 other values"):
        confusion_sums(case.x, labels, ignore_index=99, impl="triton")
    _, invalid = triton_launch.forward(case.x[:1], labels[:1], None, 0, 2**40)
    assert invalid.tolist() == [0, 0]


@pytest.mark.parametrize("classes", [3, 9])
@pytest.mark.parametrize("kind", ["labels", "dense"])
def test_nothing_else_is_written(classes: int, kind: str) -> None:
    case = case_of(classes, (3, 7), kind)
    grad_sums = torch.randn(2, classes, classes + 1, dtype=torch.float64)
    arguments = (case.x, case.target, case.weight, 0, None)
    expected = triton_launch.backward(grad_sums, *arguments)
    around = torch.full((3, *case.x.shape), torch.nan)
    table = grad_sums[..., :-1].float()
    triton_launch.backward_launch(around[1], table, *arguments)()
    assert torch.equal(around[1], expected)
    assert around[::2].isnan().all()


@pytest.mark.parametrize("what", ["x", "target", "weight"])
def test_offsets_past_2_to_the_31(what: str) -> None:
    far, near = far_apart(what)
    for found, expected in zip(far.solve("triton"), near.solve("triton"), strict=True):
        assert torch.equal(found, expected)


def test_programs_of_any_volume() -> None:
    """By the plans of huge tensors, of which there is no memory."""
    for classes in (2, 8, 9, 32, 105, 300):
        for batch, size in ((1, (1,)), (5000, (64, 64)), (1, (2**11, 2**11, 2**11))):
            x = torch.empty(1, device="meta").expand(batch, classes, *size)
            tensors = Tensors(x, x[:, 0].to(torch.uint8), None)
            plan = triton_plan.forward_plan(tensors)
            assert plan.chunks * plan.block_v < tensors.voxels + plan.block_v
            assert batch * plan.chunks * (2 * plan.class_blocks) ** 2 < 2**31
            doubles = batch * plan.chunks * classes * (classes + 1)
            assert doubles <= max(2**20, max(batch, 132) * classes * (classes + 1))


def test_incoming_gradients_of_any_strides() -> None:
    case = case_of(3, (7,))
    arguments = (case.x, case.target, None, 0, None)
    factors = torch.randn(4, 3, 2, dtype=torch.float64).permute(2, 1, 0)
    strided = triton_launch.backward(factors, *arguments)
    assert torch.equal(strided, triton_launch.backward(factors.contiguous(), *arguments))
    confusion_sums(case.x.requires_grad_(), case.target, impl="triton").sum().backward()


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0, 5), (2, 12, 0)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, requires_grad=True)
    sums = confusion_sums(x, torch.zeros(shape[0], *shape[2:]), impl="triton")
    assert sums.shape == (shape[0], shape[1], shape[1] + 1)
    assert not sums.any()
    sums.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(("classes", "kind"), [(3, "labels"), (9, "dense")])
def test_opcheck(classes: int, kind: str) -> None:
    case = case_of(classes, (4, 5), kind, "shared")
    arguments = (case.target, case.weight, "softmax", None, "triton")
    operators = torch.ops.segloss_fast
    sums = torch.randn(2, classes, classes + 1, dtype=torch.float64)
    torch.library.opcheck(operators.confusion_sums_backward, (sums, case.x, *arguments))
    torch.library.opcheck(operators.confusion_sums, (case.x.requires_grad_(), *arguments))


def test_the_public_way() -> None:
    case = case_of(3, (4, 5))
    with pytest.raises(RuntimeError, match="no float64"):
        confusion_sums(case.x.double(), case.target, impl="triton")
    x = case.x.requires_grad_()
    sums = confusion_sums(x, case.target, impl="triton")
    (grad,) = torch.autograd.grad(sums.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="use impl='reference'"):
        grad.sum().backward()
    assert preference(x.device) == ("native",)  # never by itself
    said = [b for b in backends() if (b.primitive, b.impl) == ("confusion_sums", "triton")]
    assert next(b for b in said if b.device == "cpu").available


def test_a_loss() -> None:
    case = case_of(4, (6, 7), "ignored")
    found = []
    for impl, x in (("triton", case.x), ("reference", case.x.double())):
        options = {"ignore_index": IGNORED, "weighting": "GDL", "impl": impl}
        criterion = segloss_fast.GeneralizedWassersteinDiceLoss(**options)  # type: ignore[arg-type]
        found.append(gradient(lambda x, loss=criterion: loss(x, case.target), x))  # type: ignore[misc]
    assert abs(found[0][0].item() - found[1][0].item()) < 1e-6
    assert relative_l2(found[0][1], found[1][1]) < 1e-6
