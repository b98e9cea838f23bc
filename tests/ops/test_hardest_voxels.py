"""What hardest_voxels promises on every machine: the voxels that a sort of cross-entropies finds.

In float64 to the bit, elsewhere but for voxels next to the threshold, where roundings decide.
"""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from segloss_fast._check import FLOATING
from segloss_fast.ops.hardest_voxels import Rule, hardest_voxels
from segloss_fast.ops.region_sums import ACTIVATIONS
from tests.machines import Machine, on, sized
from tests.ops.distance_transform_cases import LAYOUTS, lay_out
from tests.ops.hardest_voxels_cases import (
    DTYPES,
    KS,
    LABELS,
    Case,
    by_sorting,
    compare,
    of_values,
    random_case,
    random_input,
    random_target,
    random_weight,
    run,
)
from tests.ops.region_masks_cases import random_labels

in_float64 = on("reference", "native")
SIZES = [(1,), (513,), (5, 7), (3, 20, 33), (40, 33, 31)]


def sample(
    classes: int, size: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    torch.manual_seed(classes)
    x = (3 * torch.randn(2, classes, *size)).to(dtype)
    return x, torch.randint(0, classes, (2, *size))


@in_float64
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("k", [100.0, 50.0, 10.0, 0.1, 1e-6])
def test_equals_sorted_cross_entropies(
    machine: Machine, size: tuple[int, ...], classes: int, k: float
) -> None:
    x, labels = sample(classes, size)
    labels[torch.rand(labels.shape) < 0.3] = 255
    loss = cross_entropy(x, labels, reduction="none", ignore_index=255)
    wanted = by_sorting(loss, labels != 255, k)
    rule = Rule(k, "softmax", ignore_index=255)
    found, selected = hardest_voxels(x, labels, None, rule, impl=machine.impl)
    assert found.dtype == torch.float64
    assert found.is_contiguous()
    assert torch.equal(found[:, 0], wanted)
    assert torch.equal(selected, wanted.flatten(1).sum(1))


@in_float64
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("first", [0, 1])
def test_what_is_summed(
    machine: Machine, activation: str, dense: bool, channels: int | None, first: int
) -> None:
    x, labels = sample(3, (9, 31))
    x = x.sigmoid() if activation == "probabilities" else x
    one_hot = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).double()
    t = torch.rand_like(x) if dense else one_hot
    weight = None
    w = torch.ones_like(x)
    if channels is not None:
        weight = torch.rand(2, channels, 9, 31, dtype=torch.float64)
        weight[torch.rand(weight.shape) < 0.3] = 0
        w = weight.expand_as(x)
    v = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)
    p = {"softmax": x.softmax(1), "sigmoid": x.sigmoid(), "probabilities": x}[activation]
    each, share = -t * p.log(), w * t
    if activation == "sigmoid":
        each, share = each - (1 - t) * (1 - p).log(), w
    loss = (v.view(1, 3, 1, 1) * w * each)[:, first:].sum(1)
    wanted = by_sorting(loss, (share[:, first:] != 0).any(1), 20.0)
    rule = Rule(20.0, activation, first, v)
    found, _ = run(machine, Case(x, t if dense else labels, weight, rule))
    assert torch.equal(found[:, 0], wanted)


@in_float64
def test_one_class(machine: Machine) -> None:
    x, labels = torch.randn(2, 1, 97, dtype=torch.float64), torch.randint(0, 2, (2, 97))
    loss = binary_cross_entropy_with_logits(x[:, 0], labels.double(), reduction="none")
    found, _ = run(machine, Case(x, labels, None, Rule(15.0, "sigmoid")))
    assert torch.equal(found[:, 0], by_sorting(loss, labels >= 0, 15.0))


@in_float64
def test_negative_losses_are_ordered(machine: Machine) -> None:
    x, labels = sample(3, (40, 50))
    weight = torch.randn(2, 1, 40, 50, dtype=torch.float64)
    loss = cross_entropy(x, labels, reduction="none") * weight[:, 0]
    for k in (20.0, 80.0):  # on both sides of 0
        found, _ = run(machine, Case(x, labels, weight, Rule(k, "softmax")))
        assert torch.equal(found[:, 0], by_sorting(loss, loss == loss, k))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_random_problems(machine: Machine, activation: str) -> None:
    draw = random.Random(activation)
    for _ in range(machine.pick(10, cuda=150)):
        compare(machine, random_case(draw, activation))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes_and_layouts(machine: Machine, dtype: torch.dtype, layout: str) -> None:
    draw = random.Random(0)
    size = machine.pick((6, 5, 7), interpreted=(3, 4, 8), cuda=(63, 65, 40))
    x = lay_out(random_input((2, 3, *size), dtype, "softmax", draw), layout)
    labels = lay_out(random_labels((2, *size), 3, torch.uint8, draw), layout)
    rule = Rule(20.0, "softmax", ignore_index=4)
    compare(machine, Case(x, labels, None, rule))
    for channels in machine.pick((1, 3), interpreted=(3,)):
        weight = lay_out(random_weight(x.shape, channels, draw), layout)
        compare(machine, Case(x, labels, weight, Rule(20.0, "sigmoid", channels % 3)))
    if machine.device == "cpu":
        found = run(machine, Case(x, labels, None, rule))
        same = run(machine, Case(x.contiguous(), labels.contiguous(), None, rule))
        assert all(map(torch.equal, found, same))


@pytest.mark.parametrize("dtype", LABELS, ids=str)
@sized("classes", [1, 4], cuda=[1, 2, 16, 17, 105, 128, 129, 200])
def test_targets(machine: Machine, classes: int, dtype: torch.dtype) -> None:
    draw = random.Random(classes)
    size = machine.pick((37,), cuda=(30, 41))
    x = random_input((2, classes, *size), torch.float32, "softmax", draw)
    labels = random_labels((2, *size), classes, dtype, draw)
    values = random_target(x.shape, dtype, draw)
    for activation in ("softmax", "sigmoid"):
        compare(machine, Case(x, labels, None, Rule(30.0, activation, ignore_index=1)))
        compare(machine, Case(x, values, None, Rule(30.0, activation)))
        if machine.family != "interpreted":
            weight = random_weight(x.shape, classes, draw)
            compare(machine, Case(x, values, weight, Rule(30.0, activation)))


@pytest.mark.parametrize("classes", [129, 200])
def test_more_classes_than_a_tile_holds(machine: Machine, classes: int) -> None:
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
            compare(machine, Case(x, target, None, Rule(k, "softmax", 70, scales)))


@pytest.mark.parametrize("k", [0.1, 10.0, 33.3, 99.99, 100.0])
@pytest.mark.parametrize("values", [1, 2, 3, 40])
def test_ties_share(machine: Machine, values: int, k: float) -> None:
    """Few different values: the threshold is one that many voxels have."""
    generator = torch.Generator().manual_seed(values)
    shape = machine.pick((2, 3, 41, 33), interpreted=(2, 3, 11, 23))
    losses = torch.randint(0, values, shape, generator=generator) / 8
    for dtype in machine.pick(FLOATING, interpreted=(torch.float32, torch.float16), cuda=DTYPES):
        case, answer = of_values(losses, k, dtype)
        weights, sums = run(machine, case)
        assert torch.unique(weights).numel() <= 3
        if dtype != torch.float64:
            assert torch.equal(weights[:, 0], answer)
            known = answer.double().flatten(1).sum(1)
            torch.testing.assert_close(sums, known, rtol=1e-12, atol=0)
        else:
            torch.testing.assert_close(weights[:, 0].float(), answer, rtol=1e-6, atol=0)
            torch.testing.assert_close(sums.sum(), answer.double().sum())


@pytest.mark.parametrize("k", KS)
def test_equals_a_sort(machine: Machine, k: float) -> None:
    """Values that differ by more than roundings, in every digit of the key, and in no order."""
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    for losses in (order * 2.0**-9, 2.0 ** (order / 200.0 - 8)):
        case, answer = of_values(losses.view(2, 1500).float(), k)
        assert torch.equal(run(machine, case)[0][:, 0], answer)


def test_order_of_the_voxels_does_not_matter(machine: Machine) -> None:
    x = torch.randint(0, 3, (1, 3, 4099)).float()
    labels, rule = torch.randint(0, 3, (1, 4099)), Rule(10.0, "softmax")
    found, selected = run(machine, Case(x, labels, None, rule))
    order = torch.randperm(4099)
    other, same = run(machine, Case(x[..., order], labels[:, order], None, rule))
    assert torch.equal(other, found[..., order])
    assert torch.equal(selected, same)


@on("native", sets=True)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_instruction_sets(machine: Machine, dtype: torch.dtype) -> None:
    x, labels = sample(5, (3, 20, 33), dtype)
    for activation in ("softmax", "sigmoid"):
        rule = Rule(30.0, activation)
        found, selected = run(machine, Case(x, labels, None, rule))
        wanted, count = hardest_voxels(x, labels, None, rule, impl="reference")
        assert torch.equal(found, wanted)
        assert torch.equal(selected, count)
