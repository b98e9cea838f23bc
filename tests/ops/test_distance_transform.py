"""What distance_transform promises, against scipy's, the definition, and itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from torch import Tensor

from segloss_fast import distance_transform
from tests.machines import Machine, on
from tests.ops.masks import (
    KINDS,
    SIDES,
    assert_distances,
    by_all_pairs,
    by_scipy,
    problems,
    random_mask,
)
from tests.suite.tiers import examples

in_public = on("reference", "native")  # kernels of GPUs: test_distance_transform_limits.py
SHAPES = [
    (1,),
    (7,),
    (64,),
    (1, 1),
    (5, 9),
    (1, 33),
    (33, 1),
    (3, 4, 5),
    (1, 6, 7),
    (6, 1, 7),
    (6, 7, 1),
]
SPACINGS = {1: (0.3,), 2: (3.0, 0.8), 3: (3.0, 0.8, 0.55)}


@in_public
@examples(quick=25, test=250, every=1000)
@given(problem=problems())
def test_equals_scipy(machine: Machine, problem: tuple[Tensor, list[float]]) -> None:
    mask, spacing = problem
    truth = {side: by_scipy(mask, spacing, side) for side in ("inside", "outside")}
    for side, true in truth.items():
        found = distance_transform(mask, spacing, side=side, impl=machine.impl)
        assert_distances(found, true, f"{list(mask.shape)} {side}")


@in_public
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_least_over_all_pairs(
    machine: Machine, kind: str, shape: tuple[int, ...]
) -> None:
    mask = random_mask(shape, kind, seed=len(kind))
    batch = mask[None, None]
    for spacing in ([1.0] * len(shape), list(SPACINGS[len(shape)])):
        for side, true in by_all_pairs(mask, spacing).items():
            found = distance_transform(batch, spacing, side=side, impl=machine.impl)[0, 0]
            assert_distances(found, true, side)
            squares = distance_transform(
                batch, spacing, side=side, squared=True, impl=machine.impl
            )[0, 0]
            assert_distances(squares, true * true.abs(), side)


@in_public
@pytest.mark.parametrize("kind", KINDS)
def test_sides_are_of_one_another(machine: Machine, kind: str) -> None:
    mask = torch.stack([random_mask((11, 18, 21), kind, seed) for seed in range(3)])[None]
    inside, outside, both, signed = (
        distance_transform(mask, (2, 1, 1.5), side=side, impl=machine.impl) for side in SIDES
    )
    assert torch.equal(both, inside + outside)
    assert torch.equal(signed, torch.where(mask, -inside, outside))
    assert torch.equal(outside, distance_transform(~mask, (2, 1, 1.5), impl=machine.impl))
    assert (inside[~mask] == 0).all()
    assert (outside[mask] == 0).all()
    assert (both > 0).all()


@in_public
@pytest.mark.parametrize("side", SIDES)
def test_squares_are_exact_integers_with_unit_spacing(machine: Machine, side: str) -> None:
    for kind in ("noise", "sparse", "one", "ball"):
        mask = random_mask((19, 26, 35), kind)[None, None]
        true = by_scipy(mask, [1.0] * 3, side)
        squares = distance_transform(mask, side=side, squared=True, impl=machine.impl)
        assert torch.equal(squares.double(), (true * true.abs()).round())
        roots = distance_transform(mask, side=side, impl=machine.impl)
        exact = squares.abs().double().sqrt().float()  # torch's float32 root may be an ulp off
        assert torch.equal(roots, squares.sign() * exact)


@in_public
def test_a_mask_without_the_other_side_is_infinitely_far(machine: Machine) -> None:
    for shape in ((5,), (4, 5), (3, 4, 20)):
        full = torch.ones(1, 1, *shape)
        for mask, values in (
            (full, (torch.inf, 0, torch.inf, -torch.inf)),
            (0 * full, (0, torch.inf, torch.inf, torch.inf)),
        ):
            for side, value in zip(SIDES, values, strict=True):
                for squared in (False, True):
                    found = distance_transform(
                        mask, 0.5, side=side, squared=squared, impl=machine.impl
                    )
                    assert (found == value).all(), side


@in_public
@pytest.mark.parametrize("shape", [(37,), (7, 33), (5, 9, 17)], ids=str)
def test_masks_of_a_call_do_not_meet(machine: Machine, shape: tuple[int, ...]) -> None:
    """Empty and full ones beside others, in batch and channels."""
    kinds = [*KINDS, "noise", "ball", "one"]
    masks = torch.stack([random_mask(shape, kind, seed) for seed, kind in enumerate(kinds)])
    masks = masks.view(3, 4, *shape)
    together = distance_transform(masks, side="signed", impl=machine.impl)
    for b in range(3):
        for c in range(4):
            alone = distance_transform(
                masks[b : b + 1, c : c + 1], side="signed", impl=machine.impl
            )
            assert torch.equal(together[b, c], alone[0, 0])


@in_public
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e3, 1e12])
def test_spacing_is_a_unit(machine: Machine, scale: float) -> None:
    mask = random_mask((6, 11, 20), "sparse")[None, None]
    spacing = [scale * w for w in SPACINGS[3]]
    found = distance_transform(mask, spacing, side="both", impl=machine.impl)
    assert_distances(found, by_scipy(mask, spacing, "both"))


@in_public
def test_one_number_is_the_spacing_of_every_axis(machine: Machine) -> None:
    mask = random_mask((6, 11, 9), "noise")[None, None]
    expected = distance_transform(mask, (0.7, 0.7, 0.7), impl=machine.impl)
    for spacing in (0.7, [0.7] * 3, torch.tensor([0.7] * 3, dtype=torch.float64).tolist()):
        assert torch.equal(distance_transform(mask, spacing, impl=machine.impl), expected)
    assert torch.equal(
        distance_transform(mask, 1, impl=machine.impl), distance_transform(mask, impl=machine.impl)
    )
