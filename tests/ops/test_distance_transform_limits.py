"""Where distance_transform's kernels cut, and the edges, on every machine, against scipy."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
import torch

from segloss_fast.ops.distance_transform import SIDES
from tests.machines import Machine, on, sized
from tests.ops.distance_transform_cases import (
    DTYPES,
    LAYOUTS,
    Case,
    ball,
    check,
    compare,
    lay_out,
    random_case,
    random_values,
    run,
    seeds,
)

UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # which torch itself hardly knows
LIMIT = 1709  # rows of a tile that fit in 227 KiB
LONG = [
    *((1,), (2,), (15,), (512,), (513,), (300,), (1100,), (1536,), (40000,)),
    *((3, 512), (5, 515), (2, 1100), (3, 1100), (2, 40000), (3, 33001)),
    *((300, 3), (513, 2), (1100, 2), (1024, 1), (LIMIT, 2), (LIMIT + 1, 2), (4000, 1)),
    *((2, 300, 2), (300, 2, 3), (2, 520, 2), (LIMIT + 1, 2, 2), (2, LIMIT + 1, 2)),
]
LONG_ON_DEVICE = [
    *((1,), (512,), (513,), (40000,), (300_001,), (3, 515), (2, 40000), (5, 33001)),
    *((300, 33), (1100, 40), (LIMIT, 33), (LIMIT + 1, 33), (4000, 70), (40000, 3)),
    *((2, 300, 40), (300, 2, 40), (1750, 3, 40), (3, 1750, 40), (96, 50, 1), (96, 1, 50)),
]


@sized("seed", range(2), interpreted=range(4), cuda=range(4))
def test_random_masks(machine: Machine, seed: int) -> None:
    draw = random.Random(seed)
    machine.set_order(seed)
    voxels = machine.pick(3000, interpreted=1500, shim=20_000, cuda=60_000)
    for _ in range(machine.pick(20, interpreted=10, shim=250, cuda=100)):
        compare(machine, random_case(draw, voxels))


@pytest.mark.parametrize(
    "shape", [(1,), (1, 1, 1), (300,), (2, 70), (70, 2), (1, 9, 1), (9, 1, 5), (4, 5, 1)], ids=str
)
@pytest.mark.parametrize("side", SIDES)
def test_shapes(machine: Machine, shape: Sequence[int], side: str) -> None:
    compare(machine, Case(seeds(shape, 1), [1.0] * len(shape), side, squared=True))


@on("native", "shim", "cuda")
@sized("shape", LONG, cuda=LONG_ON_DEVICE)
def test_long_lines(machine: Machine, shape: Sequence[int]) -> None:
    """A few seeds, far apart: what looks far, and what divides and conquers."""
    spacing, many = [1.0] * len(shape), math.prod(shape) // 300
    inside, signed = machine.pick((1, max(2, many)), cuda=(max(1, math.prod(shape) // 5000), 3))
    compare(machine, Case(seeds(shape, inside), spacing, "inside"))
    compare(machine, Case(seeds(shape, signed), spacing, "signed"))


@on("native", "shim", "cuda")
@pytest.mark.parametrize("length", [40000, 29100])
def test_columns_too_long_for_shared_memory(machine: Machine, length: int) -> None:
    compare(machine, Case(seeds((length, 2), length // 10), [1.0, 2.0], "both"))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("squared", [False, True])
@sized(
    "shape",
    [(9,), (9, 20), (9, 20, 17)],
    interpreted=[(4,), (3, 4), (2, 3, 4)],
    cuda=[(70,), (70, 50), (20, 70, 50)],
)
def test_masks_with_one_side(
    machine: Machine, shape: Sequence[int], squared: bool, side: str
) -> None:
    masks = torch.zeros((1, 4, *shape), dtype=torch.bool)
    masks[0, 1] = True
    middle = tuple(size // 2 for size in shape)
    masks[0, 2][middle] = True
    masks[0, 3] = ~masks[0, 2]
    compare(machine, Case(masks, [1.0] * len(shape), side, squared))


@on("native", "shim", "cuda")
@pytest.mark.parametrize("side", SIDES)
def test_methods_meet_in_one_mask(machine: Machine, side: str) -> None:
    """Noise for brute force beside a far seed for divide and conquer, side by side in a tile."""
    draw = random.Random(0)
    noise = torch.rand((1, 1, 70, 3, 40), generator=torch.Generator().manual_seed(0)) < 0.5
    noise[..., 25:] = False
    noise[0, 0, 66, 1, 39] = True
    for mask in (noise, ~noise, ball((70, 3, 40), 0.2, draw).expand_as(noise)):
        compare(machine, Case(mask, [0.7, 3.0, 1.0], side))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes_and_layouts(machine: Machine, dtype: torch.dtype, layout: str) -> None:
    size = machine.pick((3, 4, 5, 19), interpreted=(2, 3, 4, 5), cuda=(3, 9, 17, 48))
    inside = torch.rand((2, *size), generator=torch.Generator().manual_seed(0)) < 0.6
    values = random_values(inside, dtype, random.Random(0))
    compare(machine, Case(lay_out(values, layout), [1.0, 2.0, 0.5], "signed"))


@on("native", "shim")
@pytest.mark.parametrize("dtype", UNSIGNED, ids=str)
def test_wide_unsigned_integers(machine: Machine, dtype: torch.dtype) -> None:
    inside = torch.rand((2, 3, 4, 5, 19), generator=torch.Generator().manual_seed(0)) < 0.6
    case = Case(inside.to(torch.int64).to(dtype), [1.0, 2.0, 0.5], "signed")
    check(run(machine, case), Case(inside, case.spacing, case.side))


@on("native", "shim", "cuda")
@pytest.mark.parametrize("width", [16, 48, 64, 512, 1024])
@pytest.mark.parametrize("offset", [0, 16, 3])
def test_bytes_loaded_sixteen_at_a_time(machine: Machine, width: int, offset: int) -> None:
    """Aligned rows that are not neighbours in memory, and ones that are not aligned."""
    memory = torch.ones(3 * (width + 16) + offset, dtype=torch.uint8)
    rows = memory[offset:].view(3, width + 16)[:, :width]
    rows.copy_(torch.rand(rows.shape, generator=torch.Generator().manual_seed(width)) < 0.7)
    for view in (rows[None, None], rows[:, None]):
        compare(machine, Case(view, [1.0] * (view.dim() - 2), "signed"))


@sized(
    "spacing",
    [1e-29, 1e-10, 0.1, 3.0, 1e10, 1e29],  # the native kernels refuse what is further off
    interpreted=[1e-30, 0.1, 1e30],
    shim=[1e-30, 1e-10, 0.1, 3.0, 1e10, 1e30],
)
def test_spacings_of_any_magnitude(machine: Machine, spacing: float) -> None:
    mask = torch.rand((1, 1, 5, 6, 7), generator=torch.Generator().manual_seed(0)) < 0.9
    compare(machine, Case(mask, [spacing, 2 * spacing, 0.7 * spacing], "both"))


@on("shim")
@pytest.mark.parametrize("spacing", [1e-300, 1e300])
def test_spacings_that_float32_cannot_hold(machine: Machine, spacing: float) -> None:
    mask = torch.tensor([[[1, 0, 1]]])
    expected = torch.tensor([[[spacing, 0, spacing]]], dtype=torch.float64).float()
    assert torch.equal(run(machine, Case(mask, [spacing], "inside")), expected)
    plane = mask[..., None].expand(1, 1, 3, 3)
    result = run(machine, Case(plane, [spacing, spacing], "inside"))
    assert torch.equal(result, expected[..., None].expand(1, 1, 3, 3))


@pytest.mark.parametrize("shape", [(0, 1, 4), (1, 0, 4, 4), (1, 2, 0), (2, 1, 3, 0, 5)], ids=str)
def test_empty(machine: Machine, shape: Sequence[int]) -> None:
    result = run(machine, Case(torch.ones(shape), [1.0] * (len(shape) - 2), "both"))
    assert result.shape == shape
    assert result.dtype == torch.float32


@on("interpreted")
def test_sides_by_name(machine: Machine) -> None:
    mask = seeds((5, 6), 2)
    for side in SIDES:
        found = machine.step()(mask, [1.0, 1.0], side, False)
        assert torch.equal(found, run(machine, Case(mask, [1.0, 1.0], side)))
