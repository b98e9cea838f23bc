"""The edges of hardest_voxels on every machine: saturated, not finite, tiny, far, or nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from segloss_fast.ops.hardest_voxels import Rule
from tests.machines import Machine, on, sized
from tests.ops.hardest_voxels_cases import (
    Case,
    compare,
    of_values,
    random_input,
    random_weight,
    run,
)
from tests.ops.region_masks_cases import random_labels


def selected(machine: Machine, x: Tensor, labels: Tensor, rule: Rule) -> list[int]:
    """Return the places of the voxels that have weights."""
    weights, sums = run(machine, Case(x, labels, None, rule))
    assert sums.sum() == weights.sum()
    return weights.flatten().nonzero().flatten().tolist()


def test_saturated_logits(machine: Machine) -> None:
    """Of most voxels the cross-entropy is 0 to the last bit, and of some 200."""
    losses = torch.full((1, 2000), -100.0)
    losses[0, 5::40] = 200
    for k in (1.0, 2.5, 2.6, 90.0):
        case, answer = of_values(losses, k)
        assert torch.equal(run(machine, case)[0][:, 0], answer)


def test_negative_zeros_are_no_smaller(machine: Machine) -> None:
    case, _ = of_values(torch.full((1, 2000), -100.0), 50.0)
    weight = torch.where(torch.arange(2000) % 3 > 0, 1.0, -1.0).view(1, 1, -1)
    for activation in ("softmax", "probabilities"):
        x = case.input.softmax(1) if activation == "probabilities" else case.input
        weights, _ = run(machine, Case(x, case.target, weight, Rule(50.0, activation)))
        assert bool((weights == 0.5).all())


@sized(
    "dtype",
    [torch.float32, torch.float64],
    interpreted=[torch.float32],
    cuda=[torch.float32],
)
def test_what_is_not_finite_comes_first(machine: Machine, dtype: torch.dtype) -> None:
    x = torch.randn(1, 2, 1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = torch.zeros(1, 1000, dtype=torch.int64)
    x[0, 0, 7], x[0, 1, 700], x[0, 0, 11] = torch.nan, -torch.nan, -torch.inf
    assert selected(machine, x, labels, Rule(0.2, "softmax")) == [7, 700]
    assert selected(machine, x, labels, Rule(0.3, "softmax")) == [7, 11, 700]
    x[0, 0, 500], x[0, :, 600] = torch.inf, -torch.inf
    assert selected(machine, x, labels, Rule(0.4, "softmax")) == [7, 500, 600, 700]
    labels[0, [7, 11, 500, 600, 700]] = 9  # now they do not count
    found = selected(machine, x, labels, Rule(100.0, "softmax", ignore_index=9))
    assert found == [v for v in range(1000) if v not in (7, 11, 500, 600, 700)]


def test_smallest_values_stand_above_what_does_not_count(machine: Machine) -> None:
    x = torch.zeros(1, 2, 600)
    x[0, 1, ::2] = torch.inf  # -infinite with the weight below
    labels = torch.zeros(1, 600, dtype=torch.uint8)
    labels[0, 300:] = 7
    weight = torch.full((1, 1, 600), -1.0)
    weights, sums = run(machine, Case(x, labels, weight, Rule(100.0, "sigmoid", ignore_index=7)))
    assert torch.equal(weights.flatten(), (labels[0] == 0).float())
    assert sums.item() == 300


def test_signs_and_denormals_are_ordered(machine: Machine) -> None:
    """The weight alone decides: the cross-entropy without it is log 2."""
    factors = [-1e38, -3.0, -1.0, -1e-30, -1e-40, 1e-43, 1e-40, 1e-30, 1.0, 3.0, 1e38]
    order = torch.randperm(len(factors), generator=torch.Generator().manual_seed(0))
    weight = torch.tensor(factors)[order].view(1, 1, -1)
    x, labels = torch.zeros(1, 1, len(factors)), torch.zeros(1, len(factors))
    for number in range(1, len(factors) + 1):
        rule = Rule(100 * (number + 0.5) / len(factors) if number < 11 else 100.0, "sigmoid")
        weights, _ = run(machine, Case(x, labels, weight, rule))
        assert torch.equal(weights.flatten(), (order >= len(factors) - number).float())


def test_nothing(machine: Machine) -> None:
    for shape in [(0, 3, 4), (2, 3, 0, 5)]:
        x, labels = torch.empty(shape), torch.empty(shape[0], *shape[2:])
        found, sums = run(machine, Case(x, labels, None, Rule(10.0, "softmax")))
        assert found.shape == (shape[0], 1, *shape[2:])
        assert sums.tolist() == [0.0] * shape[0]
    x, labels = torch.full((2, 3, 40), torch.nan), torch.full((2, 40), 7)
    rule = Rule(10.0, "softmax", ignore_index=7)
    for case in (
        Case(x, labels, None, rule),
        Case(x, labels * 0, torch.zeros(2, 1, 40), rule),
        Case(x, labels * 0, None, Rule(10.0, "softmax", first=3)),
    ):
        found, sums = run(machine, case)
        assert not found.any()
        assert not sums.any()


def test_labels_of_a_dtype_that_does_not_hold_all_classes(machine: Machine) -> None:
    """A label of -128 is none of them: it is not class 128."""
    x, labels = torch.randn(1, 130, 40), torch.randint(0, 127, (1, 40), dtype=torch.int8)
    labels[0, ::3] = -128
    found, _ = run(machine, Case(x, labels, None, Rule(100.0, "softmax")))
    assert torch.equal(found.flatten(), (labels[0] >= 0).float())


@on("reference", "native", "interpreted")  # a device has to hold what lies between
def test_offsets_past_2_to_the_31(machine: Machine) -> None:
    far = 2**31 + 5
    draw = random.Random(0)
    x = _far((1, 2, 3, 5), (2 * far, far, 5, 1), torch.float16)
    x.copy_(random_input(x.shape, torch.float16, "softmax", draw))
    labels = random_labels((1, 3, 5), 2, torch.uint8, draw)
    compare(machine, Case(x, labels, None, Rule(40.0, "softmax")))
    # Of the labels and weights between the items.
    x = random_input((2, 2, 15), torch.float32, "sigmoid", draw)
    there = _far((2, 15), (far, 1), torch.uint8).copy_(random_labels((2, 15), 2, torch.uint8, draw))
    weight = _far((2, 1, 15), (far, 15, 1), torch.float16).copy_(random_weight((2, 1, 15), 1, draw))
    compare(machine, Case(x, there, weight, Rule(40.0, "sigmoid")))


def _far(size: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return memory that deterministic mode does not fill, as it does that of torch.empty."""
    room = 1 + sum((n - 1) * s for n, s in zip(size, strides, strict=True))
    storage = torch.UntypedStorage(room * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage, 0, tuple(size), tuple(strides))
