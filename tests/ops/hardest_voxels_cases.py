"""Problems for the tests of hardest_voxels, and what is certain about their answers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from segloss_fast._check import FLOATING, INTEGER
from segloss_fast.ops.hardest_voxels import Rule, hardest_voxels, reference
from segloss_fast.ops.region_sums import ACTIVATIONS
from tests.machines import Machine
from tests.ops.distance_transform_cases import LAYOUTS, lay_out
from tests.ops.region_masks_cases import random_labels

DTYPES = FLOATING[:3]  # of the input; Triton's kernels have no float64
LABELS = (torch.bool, *INTEGER, *FLOATING)
CLASSES = (1, 2, 3, 5, 16, 17, 40)
# Of voxels: around vectors of 4, and tiles of 256 to 1024.
SPACES: tuple[tuple[int, ...], ...] = (
    *((1,), (7,), (256,), (515,), (1028,), (1, 1), (5, 7), (33, 40), (3, 4, 5), (1, 9, 1)),
)
KS = (100.0, 99.9, 50.0, 33.3, 10.0, 0.1, 1e-9)
EPS = torch.finfo(torch.float32).eps
MOST = torch.finfo(torch.float32).max
ROUNDINGS = 16  # of the largest term, in a cross-entropy of one class


@dataclass(frozen=True)
class Case:
    """A call of hardest_voxels.

    Attributes:
        input: ``[B, C, *S]``.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``, or None.
        rule: How many there are, and of what cross-entropy.
    """

    input: Tensor
    target: Tensor
    voxel_weight: Tensor | None
    rule: Rule

    def __str__(self) -> str:
        tensors = [
            f"{list(tensor.shape)} {tensor.dtype} {tensor.stride()}"
            for tensor in (self.input, self.target, self.voxel_weight)
            if tensor is not None
        ]
        return f"{tensors} {self.rule}"


def exact(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cross-entropies ``[B, *S]``, float64, by how much they may differ, what counts.

    What is not finite in float32 is replaced by numbers in the same order, NaN the largest.
    """
    x, weight, rule = case.input.double(), case.voxel_weight, case.rule
    weight = None if weight is None else weight.double()
    loss, counts = reference.cross_entropy(x, case.target, weight, rule)
    # The same with all terms positive, and of logarithms that are 1.
    v = None if rule.class_weight is None else rule.class_weight.abs()
    positive = replace(rule, class_weight=v)
    size, _ = reference.cross_entropy(
        x, case.target, None if weight is None else weight.abs(), positive
    )
    factors = 1.0 if weight is None else weight.abs().sum(1).amax().item()
    factors *= 1.0 if v is None else v.max().item()
    off = ROUNDINGS * EPS * (size.abs() + case.input.shape[1] * factors)
    off = torch.where(loss.abs() <= MOST, off, 0)
    loss = torch.where(loss > MOST, 1e300, loss).clamp_min(-MOST)
    return torch.where(loss.isnan(), 1e301, loss), off, counts


def wanted_of(case: Case, counts: Tensor) -> int:
    """Return how many voxels are to be selected."""
    counted = int(counts.sum())
    return min(counted, max(1, math.floor(counted * case.rule.k / 100)))


def check(found: tuple[Tensor, Tensor], case: Case) -> None:
    """Compare with the definition in float64: roundings decide only next to the threshold."""
    weights, sums = found
    batch, *space = case.input.shape[0], *case.input.shape[2:]
    assert weights.shape == (batch, 1, *space), case
    assert weights.dtype == torch.float32, case
    assert sums.dtype == torch.float64, case
    assert weights.is_contiguous(), case
    loss, off, counts = exact(case)
    field, wanted = weights[:, 0], wanted_of(case, counts)
    assert bool(((field >= 0) & (field <= 1)).all()), case
    assert not field[~counts].any(), case
    torch.testing.assert_close(
        sums, field.double().flatten(1).sum(1), rtol=1e-12, atol=0, msg=str(case)
    )
    assert abs(sums.sum().item() - wanted) <= EPS * wanted, case
    shares = field[(field > 0) & (field < 1)]
    assert shares.unique().numel() <= 1, case
    ones = int((field == 1).sum())
    assert ones <= wanted <= ones + shares.numel(), case
    if wanted > 0:
        # If no voxel is off by more, the k-th largest is between these.
        low = (loss - off)[counts].sort(descending=True).values[wanted - 1]
        high = (loss + off)[counts].sort(descending=True).values[wanted - 1]
        assert bool((field[counts & (loss - off > high)] == 1).all()), case
        assert not field[counts & (loss + off < low)].any(), case


def run(machine: Machine, case: Case) -> tuple[Tensor, Tensor]:
    """Return the weights and their sums by a machine, on the CPU."""
    weight, scales = (
        None if tensor is None else machine.place(tensor)
        for tensor in (case.voxel_weight, case.rule.class_weight)
    )
    rule = replace(case.rule, class_weight=scales)
    x, target = machine.place(case.input), machine.place(case.target)
    weights, sums = hardest_voxels(x, target, weight, rule, impl=machine.impl)
    assert weights.device.type == machine.device
    return weights.cpu(), sums.cpu()


def compare(machine: Machine, case: Case) -> None:
    """Run a problem and compare with the definition."""
    check(run(machine, case), case)


def by_sorting(values: Tensor, counts: Tensor, k: float) -> Tensor:
    """Return the weights, given each voxel's value and whether it counts."""
    number = int(counts.sum())
    if number == 0:
        return torch.zeros_like(values)
    number = max(1, int(number * k / 100))
    last = values[counts].sort(descending=True).values[number - 1]
    above, ties = counts & (values > last), counts & (values == last)
    return above + ties * ((number - above.sum()) / ties.sum()).to(values.dtype)


def of_values(losses: Tensor, k: float, dtype: torch.dtype = torch.float32) -> tuple[Case, Tensor]:
    """Return a problem whose cross-entropies have the order of ``losses [B, *S]``, and its answer.

    The answer is that of a sort. Losses that are equal come from equal logits.
    """
    x = torch.stack([torch.zeros_like(losses), -losses], 1).to(dtype)
    labels = torch.ones(losses.shape, dtype=torch.uint8)
    order = losses.flatten().sort(descending=True).values
    wanted = max(1, math.floor(losses.numel() * k / 100))
    last = order[wanted - 1]
    above, ties = losses > last, losses == last
    share = torch.tensor((wanted - int(above.sum())) / int(ties.sum()), dtype=torch.float32)
    return Case(x, labels, None, Rule(k, "softmax")), above + ties * share


def random_input(
    shape: Sequence[int], dtype: torch.dtype, activation: str, draw: random.Random
) -> Tensor:
    """Return logits or probabilities, some of them equal."""
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    x = draw.choice((1, 5)) * torch.randn(tuple(shape), generator=generator)
    if draw.random() < 0.3:
        x = x.round()
    if activation == "probabilities":
        x = x.sigmoid()
        x = torch.where(torch.rand(x.shape, generator=generator) < 0.1, x.round(), x)
    return x.to(dtype)


def random_target(case: Sequence[int], dtype: torch.dtype, draw: random.Random) -> Tensor:
    """Return values ``[B, C, *S]`` between 0 and 1, the two among them."""
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    t = torch.rand(tuple(case), generator=generator)
    some = torch.rand(t.shape, generator=generator) < 0.5
    return torch.where(some, t.round(), t).to(dtype)


def random_weight(shape: Sequence[int], channels: int, draw: random.Random) -> Tensor:
    """Return voxel weights, a third of them 0 and some negative."""
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    w = torch.rand((shape[0], channels, *shape[2:]), generator=generator) + 0.1
    kind = torch.rand(w.shape, generator=generator)
    w = torch.where(kind < 0.33, 0, torch.where(kind < 0.4, -w, w))
    return w.to(draw.choice(FLOATING))


def random_case(draw: random.Random, activation: str | None = None) -> Case:
    """Return a small problem with any options."""
    classes, space = draw.choice(CLASSES), draw.choice(SPACES)
    shape = (draw.choice((1, 2, 3)), classes, *space)
    activation = activation or draw.choice(ACTIVATIONS)
    dense = draw.random() < 0.4
    kind = draw.choice(LABELS)
    ignored = draw.choice((None, 0, 1, classes, 255, -1))
    if dense and classes > 1:
        ignored = None
    if dense:
        target = random_target(shape, kind, draw)
    else:
        target = random_labels((shape[0], *space), classes, kind, draw)
    weight = None
    if draw.random() < 0.5:
        weight = random_weight(shape, draw.choice((1, classes)), draw)
        weight = lay_out(weight, draw.choice(LAYOUTS))
    scales = torch.rand(classes, dtype=torch.float64) + 0.1 if draw.random() < 0.4 else None
    rule = Rule(draw.choice(KS), activation, draw.choice((0, 0, 1, 7)), scales, ignored)
    x = random_input(shape, draw.choice(DTYPES), activation, draw)
    layout, other = draw.choice(LAYOUTS), draw.choice(LAYOUTS)
    return Case(lay_out(x, layout), lay_out(target, other), weight, rule)
