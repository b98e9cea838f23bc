"""Distances of masks that may lack a boundary, and sums of them, on every machine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast.ops.distance_transform import SIDES, add_distances, bounded_distances
from tests.machines import Machine, on, sized
from tests.ops.distance_transform_cases import RELATIVE, Case, ball, exact, random_case
from tests.ops.masks import random_mask

OPS = "segloss_fast.ops.distance_transform"
# One axis, two, three; rows shorter than a vector and not whole ones, planes that are too large.
SHAPES = [(37,), (9, 20), (5, 7, 9), (5, 18, 33), (3, 1, 40), (3, 8200)]
FEW = [(5,), (3, 4), (2, 3, 17)]


def true_distances(case: Case) -> Tensor:
    """Return SciPy's, float64, 0 for a mask without a boundary."""
    return exact(case).nan_to_num(posinf=0, neginf=0)


def check(machine: Machine, case: Case) -> None:
    """Compare a call with SciPy, and a sum with its summands."""
    true = true_distances(case)
    options: dict[str, Any] = {"side": case.side, "squared": case.squared, "impl": machine.asked}
    mask, spacing = machine.place(case.mask), list(case.spacing)
    found = bounded_distances(mask, spacing, **options).cpu()
    assert found.dtype == torch.float32
    assert bool(((found.double() - true).abs() <= RELATIVE * true.abs()).all()), case
    before = torch.randn(case.mask.shape, generator=torch.Generator().manual_seed(1))
    place = machine.place(before.clone())
    total = add_distances(place, mask, spacing, **options)
    assert total is place, case
    assert torch.equal(total.cpu(), before + found), case


@sized("shape", SHAPES, interpreted=FEW, reference=FEW, shim=SHAPES[:-1])
@pytest.mark.parametrize("side", SIDES)
def test_masks_without_a_boundary(machine: Machine, shape: Sequence[int], side: str) -> None:
    """Full and empty ones beside others in one call, for which 0 stands."""
    kinds = ("full", "noise", "empty", "one")
    mask = torch.stack([random_mask(tuple(shape), kind) for kind in kinds])[None]
    check(machine, Case(mask, [1.0, 0.4, 2.0][: len(shape)], side, squared=side == "both"))


@sized("seed", range(2), interpreted=range(1))
def test_random_masks(machine: Machine, seed: int) -> None:
    draw = random.Random(100 + seed)
    for _ in range(machine.pick(30, interpreted=6, reference=6, cuda=60)):
        check(machine, random_case(draw, machine.pick(20_000, interpreted=1500, reference=3000)))


@on("shim", "interpreted")
@pytest.mark.parametrize("masks", [(2, 3), (5, 1), (3, 2)], ids=str)
def test_masks_come_in_parts(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, masks: tuple[int, int]
) -> None:
    """Two at once, of one item or two, as if so few voxels kept a device busy."""
    size = machine.pick((6, 12, 17), interpreted=(3, 4, 9))  # the shim has 3000 at once
    if machine.family == "interpreted":
        monkeypatch.setattr(import_module(f"{OPS}.triton_launch"), "AT_ONCE", 250)
    draw = torch.Generator().manual_seed(sum(masks))
    mask = torch.rand(*masks, *size, generator=draw) < 0.9
    mask[0, 0] = True  # without a boundary
    for side in ("both", "outside"):
        check(machine, Case(mask, [1.0, 0.4, 2.0], side))
    check(machine, Case(mask.transpose(0, 1), [1.0, 0.4, 2.0], "inside"))
    check(machine, Case(mask.flatten(3), [1.0, 0.4], "signed"))


@on("native", sets=True)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.8, 0.8)], ids=str)
def test_plane_by_plane(machine: Machine, side: str, spacing: tuple[float, ...]) -> None:
    """Masks whose squares of both sides are found in one search, and those where it gives up."""
    size = (21, 50, 70)
    masks = [
        random_mask(size, kind, seed=3) for kind in ("noise", "dense", "sparse", "hole", "box")
    ]
    around = [ball(size, radius, random.Random(0)) for radius in (0.1, 0.3)]
    for mask in torch.stack([*masks, *around]).split(3):
        check(machine, Case(mask[None], spacing, side))


@on("native", "shim", "cuda")
@pytest.mark.parametrize("shape", [(300, 20), (600, 3, 17), (2, 300, 40)], ids=str)
def test_runs_past_a_byte(machine: Machine, shape: Sequence[int]) -> None:
    masks = torch.stack([random_mask(tuple(shape), kind) for kind in ("one", "hole", "noise")])
    check(machine, Case(masks[None], [1.0] * len(shape), "both", squared=True))


@on("native")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.float32], ids=str)
def test_nonzero_is_inside(machine: Machine, dtype: torch.dtype) -> None:
    """Also where bytes are read in place, and differ without being of different sides."""
    inside = random_mask((7, 20, 33), "noise")[None, None]
    values = torch.randint(1, 100, inside.shape, generator=torch.Generator().manual_seed(0))
    mask = (values * inside).to(dtype)
    for side in SIDES:
        check(machine, Case(mask, [1.0, 2.0, 1.0], side))
        check(machine, Case(mask.transpose(2, 3), [1.0, 2.0, 1.0], side))


@on("native", "shim")
def test_sums_that_are_refused(machine: Machine) -> None:
    mask, add = torch.ones(1, 2, 3, 20, dtype=torch.bool), machine.step("add")
    for total in (
        torch.zeros(1, 2, 3, 19),
        torch.zeros(1, 2, 60),
        torch.zeros(1, 2, 3, 20, dtype=torch.float64),
        torch.zeros(1, 2, 20, 3).transpose(2, 3),
    ):
        with pytest.raises(RuntimeError, match="sums"):
            add(total, mask, [1.0, 1.0], 2, True)
