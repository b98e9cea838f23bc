"""Tests of hardest_voxels' Triton kernels under Triton's interpreter."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from segloss_fast import backends
from segloss_fast.ops.hardest_voxels import (
    Rule,
    hardest_voxels,
    op,
    triton_launch,
)
from segloss_fast.ops.hardest_voxels.op import kernels
from segloss_fast.ops.region_sums import ACTIVATIONS
from tests.ops.distance_transform_cases import LAYOUTS, lay_out
from tests.ops.hardest_voxels_cases import (
    DTYPES,
    KS,
    LABELS,
    Case,
    check,
    compare,
    of_values,
    random_case,
    random_input,
    random_target,
    random_weight,
)
from tests.ops.region_masks_cases import random_labels

pytestmark = [
    # Of the interpreter's arithmetic with NaN and infinity.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.usefixtures("new_tensors_are_nan"),
]


def run(case: Case) -> tuple[Tensor, Tensor]:
    rule = case.rule
    return triton_launch.forward(
        case.input,
        case.target,
        case.voxel_weight,
        rule.class_weight,
        rule.k,
        ACTIVATIONS.index(rule.activation),
        rule.first,
        rule.ignore_index,
    )


def selected(x: Tensor, labels: Tensor, rule: Rule) -> list[int]:
    weights, sums = run(Case(x, labels, None, rule))
    assert sums.sum() == weights.sum()
    return weights.flatten().nonzero().flatten().tolist()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_random_problems(activation: str) -> None:
    draw = random.Random(activation)
    for _ in range(10):
        compare(run, random_case(draw, activation))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes_and_layouts(dtype: torch.dtype, layout: str) -> None:
    draw = random.Random(0)
    x = lay_out(random_input((2, 3, 3, 4, 8), dtype, "softmax", draw), layout)
    labels = lay_out(random_labels((2, 3, 4, 8), 3, torch.uint8, draw), layout)
    weight = lay_out(random_weight((2, 3, 3, 4, 8), 3, draw), layout)
    compare(run, Case(x, labels, None, Rule(20.0, "softmax", ignore_index=4)))
    compare(run, Case(x, labels, weight, Rule(20.0, "sigmoid")))


@pytest.mark.parametrize("dtype", LABELS, ids=str)
def test_targets(dtype: torch.dtype) -> None:
    draw = random.Random(0)
    for classes in (1, 4):
        x = random_input((2, classes, 37), torch.float32, "softmax", draw)
        labels = random_labels((2, 37), classes, dtype, draw)
        values = random_target((2, classes, 37), dtype, draw)
        for activation in ("softmax", "sigmoid"):
            compare(run, Case(x, labels, None, Rule(30.0, activation, ignore_index=1)))
            compare(run, Case(x, values, None, Rule(30.0, activation)))


@pytest.mark.parametrize("classes", [129, 200])
def test_more_classes_than_a_tile_holds(classes: int) -> None:
    """The largest logit of some voxels is in the last block, and infinitely small ones before."""
    draw = random.Random(0)
    x = random_input((1, classes, 35), torch.float32, "softmax", draw)
    x[:, -1, :9] = 30
    x[:, :64, 3:6] = -torch.inf
    labels = random_labels((1, 35), classes, torch.int16, draw)
    scales = torch.rand(classes, dtype=torch.float64)
    small = random_labels((1, 35), classes, torch.int8, draw)  # does not hold all of them
    for target in (labels, small, random_target(x.shape, torch.float32, draw)):
        for k in (10.0, 60.0):
            compare(run, Case(x, target, None, Rule(k, "softmax", 70, scales)))


@pytest.mark.parametrize("k", [0.1, 10.0, 33.3, 99.99, 100.0])
@pytest.mark.parametrize("values", [1, 2, 3, 40])
def test_ties_share(values: int, k: float) -> None:
    """Few different values: the threshold is one that many voxels have."""
    generator = torch.Generator().manual_seed(values)
    losses = torch.randint(0, values, (2, 3, 11, 23), generator=generator) / 8
    for dtype in (torch.float32, torch.float16):
        case, answer = of_values(losses, k, dtype)
        weights, sums = run(case)
        assert torch.equal(weights[:, 0], answer)
        torch.testing.assert_close(sums, answer.double().flatten(1).sum(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("k", KS)
def test_equals_a_sort(k: float) -> None:
    """Values that differ by more than roundings, in every digit of the key, and in no order."""
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    for losses in (order * 2.0**-9, 2.0 ** (order / 200.0 - 8)):
        case, answer = of_values(losses.view(2, 1500).float(), k)
        assert torch.equal(run(case)[0][:, 0], answer)


def test_saturated_logits() -> None:
    """Of most voxels the cross-entropy is 0 to the last bit, and of some 200."""
    losses = torch.full((1, 2000), -100.0)
    losses[0, 5::40] = 200
    for k in (1.0, 2.5, 2.6, 90.0):
        case, answer = of_values(losses, k)
        assert torch.equal(run(case)[0][:, 0], answer)
    # With a negative weight the 0 is negative, and no smaller.
    case, _ = of_values(torch.full((1, 2000), -100.0), 50.0)
    weight = torch.where(torch.arange(2000) % 3 > 0, 1.0, -1.0).view(1, 1, -1)
    for activation in ("softmax", "probabilities"):
        x = case.input.softmax(1) if activation == "probabilities" else case.input
        weights, _ = run(Case(x, case.target, weight, Rule(50.0, activation)))
        assert bool((weights == 0.5).all())


def test_what_is_not_finite_comes_first() -> None:
    x = torch.randn(1, 2, 1000, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(1, 1000, dtype=torch.int64)
    x[0, 0, 7], x[0, 1, 700], x[0, 0, 11] = torch.nan, -torch.nan, -torch.inf
    assert selected(x, labels, Rule(0.2, "softmax")) == [7, 700]
    assert selected(x, labels, Rule(0.3, "softmax")) == [7, 11, 700]
    x[0, 0, 500], x[0, :, 600] = torch.inf, -torch.inf
    assert selected(x, labels, Rule(0.4, "softmax")) == [7, 500, 600, 700]
    labels[0, [7, 11, 500, 600, 700]] = 9  # now they do not count
    found = selected(x, labels, Rule(100.0, "softmax", ignore_index=9))
    assert found == [v for v in range(1000) if v not in (7, 11, 500, 600, 700)]


def test_smallest_values_stand_above_what_does_not_count() -> None:
    x = torch.zeros(1, 2, 600)
    x[0, 1, ::2] = torch.inf  # -infinite with the weight below
    labels = torch.zeros(1, 600, dtype=torch.uint8)
    labels[0, 300:] = 7
    weight = torch.full((1, 1, 600), -1.0)
    weights, sums = run(Case(x, labels, weight, Rule(100.0, "sigmoid", ignore_index=7)))
    assert torch.equal(weights.flatten(), (labels[0] == 0).float())
    assert sums.item() == 300


def test_nothing() -> None:
    for shape in [(0, 3, 4), (2, 3, 0, 5)]:
        x, labels = torch.empty(shape), torch.empty(shape[0], *shape[2:])
        found, sums = run(Case(x, labels, None, Rule(10.0, "softmax")))
        assert found.shape == (shape[0], 1, *shape[2:])
        assert sums.tolist() == [0.0] * shape[0]
    x, labels = torch.full((2, 3, 40), torch.nan), torch.full((2, 40), 7)
    rule = Rule(10.0, "softmax", ignore_index=7)
    for case in (
        Case(x, labels, None, rule),
        Case(x, labels * 0, torch.zeros(2, 1, 40), rule),
        Case(x, labels * 0, None, Rule(10.0, "softmax", first=3)),
    ):
        found, sums = run(case)
        assert not found.any()
        assert not sums.any()


def test_offsets_past_2_to_the_31() -> None:
    far = 2**31 + 5
    draw = random.Random(0)
    x = _far((1, 2, 3, 5), (2 * far, far, 5, 1), torch.float16)
    x.copy_(random_input(x.shape, torch.float16, "softmax", draw))
    labels = random_labels((1, 3, 5), 2, torch.uint8, draw)
    compare(run, Case(x, labels, None, Rule(40.0, "softmax")))
    # Of the labels and weights between the items.
    x = random_input((2, 2, 15), torch.float32, "sigmoid", draw)
    there = _far((2, 15), (far, 1), torch.uint8).copy_(random_labels((2, 15), 2, torch.uint8, draw))
    weight = _far((2, 1, 15), (far, 15, 1), torch.float16).copy_(random_weight((2, 1, 15), 1, draw))
    compare(run, Case(x, there, weight, Rule(40.0, "sigmoid")))


def _far(size: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return memory that deterministic mode does not fill, as it does that of torch.empty."""
    room = 1 + sum((n - 1) * s for n, s in zip(size, strides, strict=True))
    storage = torch.UntypedStorage(room * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage, 0, tuple(size), tuple(strides))


@pytest.mark.parametrize("k", [100.0, 33.3, 1e-7])
def test_counts_past_2_to_the_31(k: float) -> None:
    """As k is a float64, so is the share."""
    x = torch.empty(1, 1, 8)
    room = triton_launch._Room(x)
    numbers = random.Random(0).sample(range(2**33), 256)
    room.counters[:256] = torch.tensor(numbers)
    weights, sums = torch.zeros(1, 1, 8), torch.empty(1, dtype=torch.float64)
    next(iter(triton_launch.select_launches(weights, sums, k, room)))()
    digit, wanted = 255, max(1, math.floor(sum(numbers) * k / 100))
    while wanted > numbers[digit]:
        wanted -= numbers[digit]
        digit -= 1
    assert room.states[2:4].tolist() == [digit - 128, wanted]


def test_programs_and_runs_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """However the work is cut, and with several blocks per program, the bits are the same."""
    draw = random.Random(0)
    x = random_input((3, 4, 2003), torch.float32, "softmax", draw)
    labels = random_labels((3, 2003), 4, torch.uint8, draw)
    for voxels in (2003, 2000):
        case = Case(x[..., :voxels], labels[..., :voxels], None, Rule(30.0, "softmax"))
        compare(run, case)
        first = run(case)
        for programs, block in ((1024, 4096), (1, 512), (7, 512), (4, 1024)):
            monkeypatch.setattr(triton_launch, "PROGRAMS", programs)
            monkeypatch.setattr(triton_launch, "COUNT_BLOCK", block)
            monkeypatch.setattr(triton_launch, "WEIGH_BLOCK", block // 2)
            for one, other in zip(run(case), first, strict=True):
                assert torch.equal(one, other)


def test_signs_and_denormals_are_ordered() -> None:
    """The weight alone decides: the cross-entropy without it is log 2."""
    factors = [-1e38, -3.0, -1.0, -1e-30, -1e-40, 1e-43, 1e-40, 1e-30, 1.0, 3.0, 1e38]
    order = torch.randperm(len(factors), generator=torch.Generator().manual_seed(0))
    weight = torch.tensor(factors)[order].view(1, 1, -1)
    x, labels = torch.zeros(1, 1, len(factors)), torch.zeros(1, len(factors))
    for number in range(1, len(factors) + 1):
        rule = Rule(100 * (number + 0.5) / len(factors) if number < 11 else 100.0, "sigmoid")
        weights, _ = run(Case(x, labels, weight, rule))
        assert torch.equal(weights.flatten(), (order >= len(factors) - number).float())


def test_the_public_way(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    x = random_input((2, 3, 5, 9), torch.float32, "softmax", draw)
    labels = random_labels((2, 5, 9), 3, torch.uint8, draw)
    rule = Rule(25.0, "softmax", 1, torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), 1)
    found = hardest_voxels(x, labels, None, rule, impl="triton")
    check(found, Case(x, labels, None, rule))
    assert kernels.choose("triton", x.device) == "triton"
    assert kernels.choose("auto", x.device) != "triton"  # never by itself
    (said,) = (
        b
        for b in backends()
        if (b.primitive, b.impl, b.device) == ("hardest_voxels", "triton", "cpu")
    )
    assert said.available
    # What they do not serve.
    monkeypatch.setattr(op, "call", None)
    double, _ = hardest_voxels(x.double(), labels, None, rule, impl="triton")
    assert double.dtype == torch.float64
    added, _ = hardest_voxels(x, labels, None, rule, add=lambda count: count, impl="triton")
    torch.testing.assert_close(added.double(), double)


def test_opcheck() -> None:
    x = torch.randn(2, 3, 4, 5)
    labels = torch.randint(0, 3, (2, 4, 5))
    scales = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    operator = torch.ops.segloss_fast.hardest_voxels
    options = (torch.rand(2, 1, 4, 5), scales, 30.0, "softmax", 1, None, "triton")
    torch.library.opcheck(operator, (x, labels, *options))
