"""How hardest_voxels' Triton kernels are launched: counts, cuts, and what they leave to others."""

from __future__ import annotations

import math
import random

import pytest
import torch

from segloss_fast.ops.hardest_voxels import Rule, hardest_voxels, op, triton_launch
from tests.machines import Machine, machines_of
from tests.ops.hardest_voxels_cases import Case, compare, random_input, run
from tests.ops.region_masks_cases import random_labels

pytestmark = pytest.mark.usefixtures("new_tensors_are_nan")


@pytest.fixture
def machine() -> Machine:
    (found,) = machines_of("hardest_voxels")
    return found


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


def test_programs_and_runs_agree(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the work is cut, and with several blocks per program, the bits are the same."""
    draw = random.Random(0)
    x = random_input((3, 4, 2003), torch.float32, "softmax", draw)
    labels = random_labels((3, 2003), 4, torch.uint8, draw)
    for voxels in (2003, 2000):
        case = Case(x[..., :voxels], labels[..., :voxels], None, Rule(30.0, "softmax"))
        compare(machine, case)
        first = run(machine, case)
        for programs, block in ((1024, 4096), (1, 512), (7, 512), (4, 1024)):
            monkeypatch.setattr(triton_launch, "PROGRAMS", programs)
            monkeypatch.setattr(triton_launch, "COUNT_BLOCK", block)
            monkeypatch.setattr(triton_launch, "WEIGH_BLOCK", block // 2)
            for one, other in zip(run(machine, case), first, strict=True):
                assert torch.equal(one, other)


def test_what_they_do_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    x = random_input((2, 3, 5, 9), torch.float32, "softmax", draw)
    labels = random_labels((2, 5, 9), 3, torch.uint8, draw)
    rule = Rule(25.0, "softmax", 1, torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), 1)
    monkeypatch.setattr(op, "call", None)
    double, _ = hardest_voxels(x.double(), labels, None, rule, impl="triton")
    assert double.dtype == torch.float64
    added, _ = hardest_voxels(x, labels, None, rule, add=lambda count: count, impl="triton")
    torch.testing.assert_close(added.double(), double)
