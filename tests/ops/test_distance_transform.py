"""distance_transform against scipy's, against the definition, and against itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from torch import Tensor

from segloss_fast import distance_transform
from tests.ops.masks import (
    IMPLS,
    KINDS,
    SIDES,
    assert_distances,
    by_all_pairs,
    by_scipy,
    problems,
    random_mask,
)
from tests.suite.tiers import examples

by_impl = pytest.mark.parametrize("impl", IMPLS)
# Interpreted Triton is slow: a tenth of the examples, and no large volume.
QUICK = [impl for impl in IMPLS if impl != "triton"]
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


@pytest.mark.parametrize("impl", QUICK)
@examples(quick=25, test=250, every=2500)
@given(problem=problems())
def test_equals_scipy(impl: str, problem: tuple[Tensor, list[float]]) -> None:
    mask, spacing = problem
    truth = {side: by_scipy(mask, spacing, side) for side in ("inside", "outside")}
    for side, true in truth.items():
        found = distance_transform(mask, spacing, side=side, impl=impl)
        assert_distances(found, true, f"{list(mask.shape)} {side}")


@by_impl
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_least_over_all_pairs(impl: str, kind: str, shape: tuple[int, ...]) -> None:
    mask = random_mask(shape, kind, seed=len(kind))
    batch = mask[None, None]
    for spacing in ([1.0] * len(shape), list(SPACINGS[len(shape)])):
        for side, true in by_all_pairs(mask, spacing).items():
            found = distance_transform(batch, spacing, side=side, impl=impl)[0, 0]
            assert_distances(found, true, side)
            squares = distance_transform(batch, spacing, side=side, squared=True, impl=impl)[0, 0]
            assert_distances(squares, true * true.abs(), side)


@by_impl
@pytest.mark.parametrize("kind", KINDS)
def test_sides_are_of_one_another(impl: str, kind: str) -> None:
    mask = torch.stack([random_mask((11, 18, 21), kind, seed) for seed in range(3)])[None]
    inside, outside, both, signed = (
        distance_transform(mask, (2, 1, 1.5), side=side, impl=impl) for side in SIDES
    )
    assert torch.equal(both, inside + outside)
    assert torch.equal(signed, torch.where(mask, -inside, outside))
    assert torch.equal(outside, distance_transform(~mask, (2, 1, 1.5), impl=impl))
    assert (inside[~mask] == 0).all()
    assert (outside[mask] == 0).all()
    assert (both > 0).all()


@by_impl
@pytest.mark.parametrize("side", SIDES)
def test_squares_are_exact_integers_with_unit_spacing(impl: str, side: str) -> None:
    for kind in ("noise", "sparse", "one", "ball"):
        mask = random_mask((19, 26, 35), kind)[None, None]
        true = by_scipy(mask, [1.0] * 3, side)
        squares = distance_transform(mask, side=side, squared=True, impl=impl)
        assert torch.equal(squares.double(), (true * true.abs()).round())
        roots = distance_transform(mask, side=side, impl=impl)
        exact = squares.abs().double().sqrt().float()  # torch's float32 root may be an ulp off
        assert torch.equal(roots, squares.sign() * exact)


@by_impl
def test_a_mask_without_the_other_side_is_infinitely_far(impl: str) -> None:
    for shape in ((5,), (4, 5), (3, 4, 20)):
        full = torch.ones(1, 1, *shape)
        for mask, values in (
            (full, (torch.inf, 0, torch.inf, -torch.inf)),
            (0 * full, (0, torch.inf, torch.inf, torch.inf)),
        ):
            for side, value in zip(SIDES, values, strict=True):
                for squared in (False, True):
                    found = distance_transform(mask, 0.5, side=side, squared=squared, impl=impl)
                    assert (found == value).all(), side


@by_impl
@pytest.mark.parametrize("shape", [(37,), (7, 33), (5, 9, 17)], ids=str)
def test_masks_of_a_call_do_not_meet(impl: str, shape: tuple[int, ...]) -> None:
    """Empty and full ones beside others, in batch and channels."""
    kinds = [*KINDS, "noise", "ball", "one"]
    masks = torch.stack([random_mask(shape, kind, seed) for seed, kind in enumerate(kinds)])
    masks = masks.view(3, 4, *shape)
    together = distance_transform(masks, side="signed", impl=impl)
    for b in range(3):
        for c in range(4):
            alone = distance_transform(masks[b : b + 1, c : c + 1], side="signed", impl=impl)
            assert torch.equal(together[b, c], alone[0, 0])


@by_impl
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e3, 1e12])
def test_spacing_is_a_unit(impl: str, scale: float) -> None:
    mask = random_mask((6, 11, 20), "sparse")[None, None]
    spacing = [scale * w for w in SPACINGS[3]]
    found = distance_transform(mask, spacing, side="both", impl=impl)
    assert_distances(found, by_scipy(mask, spacing, "both"))


@by_impl
def test_one_number_is_the_spacing_of_every_axis(impl: str) -> None:
    mask = random_mask((6, 11, 9), "noise")[None, None]
    expected = distance_transform(mask, (0.7, 0.7, 0.7), impl=impl)
    for spacing in (0.7, [0.7] * 3, torch.tensor([0.7] * 3, dtype=torch.float64).tolist()):
        assert torch.equal(distance_transform(mask, spacing, impl=impl), expected)
    assert torch.equal(distance_transform(mask, 1, impl=impl), distance_transform(mask, impl=impl))
