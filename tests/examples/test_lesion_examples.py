"""The example of small lesions: its data and its scores against brute force, its table."""

from __future__ import annotations

import json

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from examples.lesion_data import DARKER, GAP, RADII, Places, insert_lesions
from examples.lesion_scores import SIZES, runs_of, score, table
from tests.conftest import ROOT

FULL = ndimage.generate_binary_structure(3, 3)


def brain() -> tuple[Tensor, Tensor]:
    """Return an image and its brain, an ellipsoid, ``[44, 50, 40]``."""
    axes = [torch.linspace(-1.1, 1.1, side) for side in (44, 50, 40)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    inside = x**2 + y**2 + z**2 < 1
    return inside * (0.5 + 0.1 * x), inside


@pytest.mark.parametrize("seed", range(2))
def test_lesions_are_spheres_apart_within_the_brain(seed: int) -> None:
    image, inside = brain()
    generator = torch.Generator().manual_seed(seed)
    found, target = insert_lesions(image, Places(inside), 12, generator)
    labels, count = ndimage.label(target.numpy(), FULL)
    assert count == 12
    assert inside[target.bool()].all()
    assert torch.equal(found[target == 0], image[target == 0])
    for lesion in range(1, count + 1):
        mask = torch.from_numpy(labels == lesion)
        around = torch.from_numpy(ndimage.binary_dilation(mask.numpy(), FULL, GAP))
        assert torch.equal(around & target.bool(), mask)
        places = mask.nonzero().double()
        center = places.mean(0)
        assert torch.equal(center, center.round())
        away = torch.cartesian_prod(*(torch.arange(n).double() for n in mask.shape)) - center
        square = away.square().sum(1).view(mask.shape)
        radius = float(square[mask].max()) ** 0.5
        assert (square[~mask] > radius**2).all()  # all of a ball
        assert RADII[0] <= radius <= RADII[1]
        darker = 1 - found[mask] / image[mask]
        torch.testing.assert_close(darker, darker[:1].expand_as(darker))
        assert DARKER[0] - 1e-6 <= float(darker[0]) <= DARKER[1] + 1e-6


def test_lesions_come_from_the_generator_and_need_room() -> None:
    image, inside = brain()
    places = Places(inside)
    once, again, other = (
        insert_lesions(image, places, 5, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert all(map(torch.equal, once, again))
    assert not torch.equal(once[1], other[1])
    generator = torch.Generator()
    with pytest.raises(ValueError, match="1000 tries found no place"):
        insert_lesions(image, places, 400, generator)
    with pytest.raises(ValueError, match="room for spheres of radius"):
        insert_lesions(torch.zeros(5, 5, 5), Places(torch.ones(5, 5, 5) == 0), 1, generator)


@pytest.mark.parametrize("seed", range(2))
def test_scores_equal_a_loop_over_lesions(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for threshold in (0.5, 0.8):
        coarse = torch.rand(2, 1, 6, 7, 5, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, scale_factor=6.0, mode="trilinear")
        noise = torch.rand(fine.shape, generator=generator)
        target, prediction = (fine + 0.05 * noise > threshold)[:, 0]
        pairs.append((prediction, target))
    found, lesions = [0] * 5, [0] * 5
    wrong, dice = 0, 0.0
    for prediction, target in pairs:
        labels, count = ndimage.label(target.numpy(), FULL)
        for lesion in range(1, count + 1):
            mask = torch.from_numpy(labels == lesion)
            size = sum(int(mask.sum()) >= edge for edge in SIZES)
            lesions[size] += 1
            found[size] += bool(prediction[mask].any())
        labels, count = ndimage.label(prediction.numpy(), FULL)
        wrong += sum(not target.numpy()[labels == one].any() for one in range(1, count + 1))
        a, b = prediction.double().flatten(), target.double().flatten()
        dice += float(2 * a @ b / (a.sum() + b.sum()))
    assert min(sum(lesions), sum(found), wrong) > 0
    scores = score(pairs)
    assert (scores.lesions, scores.found) == (lesions, found)
    assert scores.false_positives == wrong / 2
    assert scores.dice == pytest.approx(dice / 2, abs=1e-6)


def test_the_table_has_means_and_ranges_over_seeds() -> None:
    one = {"lesions": [4, 2, 1, 1, 2], "found": [1, 1, 1, 0, 2], "false_positives": 3.0}
    other = {**one, "found": [3, 1, 1, 1, 2], "false_positives": 4.0, "dice": 0.75}
    seeds = [{"Loss": {**one, "dice": 0.5}, "Other": other}, {"Loss": other, "Other": other}]
    numbers = {"seeds": {str(seed): {"scores": scores} for seed, scores in enumerate(seeds)}}
    assert table(runs_of(numbers)).splitlines() == [
        "| mean (range) | Loss | Other |",
        "| --- | --: | --: |",
        "| recall of 4 lesions of 7 to 19 voxels | 50% (25% to 75%) | 75% (75% to 75%) |",
        "| recall of 2 lesions of 20 to 59 voxels | 50% (50% to 50%) | 50% (50% to 50%) |",
        "| recall of 1 lesions of 60 to 199 voxels | 100% (100% to 100%) | 100% (100% to 100%) |",
        "| recall of 1 lesions of 200 to 599 voxels | 50% (0% to 100%) | 100% (100% to 100%) |",
        "| recall of 2 lesions of 600 or more voxels | 100% (100% to 100%) | 100% (100% to 100%) |",
        "| recall of all 10 | 65% (50% to 80%) | 80% (80% to 80%) |",
        "| false positives per head | 3.5 (3.0 to 4.0) | 4.0 (4.0 to 4.0) |",
        "| Dice of the voxels | 0.625 (0.500 to 0.750) | 0.750 (0.750 to 0.750) |",
    ]


def test_the_table_of_the_docs_is_that_of_the_run() -> None:
    numbers = json.loads((ROOT / "docs" / "small_lesions.json").read_text())
    assert table(runs_of(numbers)) in (ROOT / "docs" / "losses.md").read_text()
