"""What nearest_component promises: the least over all pairs of voxels, scipy's but for ties."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from scipy import ndimage

from segloss_fast import distance_transform, nearest_component
from tests.machines import Machine, on, sized
from tests.ops.nearest_cases import (
    IRRATIONAL,
    SPACINGS,
    THICK,
    UNIT,
    Case,
    blobs,
    compare,
    random_case,
    run,
)
from tests.suite.tiers import few

publicly = on("reference", "native")  # kernels of GPUs: test_nearest_component_limits.py
by_kind = pytest.mark.parametrize("kind", SPACINGS)


@sized("seed", few(range(8), quick=1, test=3), interpreted=range(4), shim=range(2), cuda=range(3))
def test_equals_the_least_over_all_pairs(machine: Machine, seed: int) -> None:
    draw = random.Random(seed)
    machine.set_order(seed)
    voxels = machine.pick(1500, interpreted=500, shim=800, cuda=3000)
    for _ in range(machine.pick(40, interpreted=6, shim=25, cuda=60)):
        compare(machine, random_case(draw, voxels))


@publicly
def test_the_smallest_label_wins_ties(machine: Machine) -> None:
    line = torch.tensor([[[0, 3, 0, 2, 0, 0, 0, 9, 0]]])
    assert nearest_component(line, impl=machine.impl).tolist() == [[[3, 3, 2, 2, 2, 2, 9, 9, 9]]]
    cross = torch.zeros(1, 1, 5, 5, dtype=torch.int32)
    for place, label in (((0, 2), 7), ((2, 0), 5), ((4, 2), 4), ((2, 4), 6)):
        cross[0, 0, place[0], place[1]] = label
    nearest, distance = nearest_component(cross, distance=True, impl=machine.impl)
    assert int(nearest[0, 0, 2, 2]) == 4
    assert float(distance[0, 0, 2, 2]) == 2
    assert nearest[0, 0].diag().tolist() == [5, 5, 4, 4, 4]
    # 3^2 + 4^2 = 5^2: far apart in one axis, and at an angle.
    corner = torch.zeros(1, 1, 4, 10, dtype=torch.int32)
    corner[0, 0, 3, 4], corner[0, 0, 0, 5] = 2, 1
    assert int(nearest_component(corner, impl=machine.impl)[0, 0, 0, 0]) == 1
    assert int(nearest_component(3 * (corner > 0) - corner, impl=machine.impl)[0, 0, 0, 0]) == 1


@publicly
@pytest.mark.parametrize("density", [0.003, 0.03, 0.4])
@pytest.mark.parametrize("kind", [UNIT, THICK, IRRATIONAL])
def test_differs_from_scipy_only_where_distances_are_equal(
    machine: Machine, kind: str, density: float
) -> None:
    labels = blobs((24, 30, 36), density)
    case = Case(labels, kind)
    nearest, distance = run(machine, case)
    array, sampling = labels[0, 0].numpy(), case.spacing
    true, places = ndimage.distance_transform_edt(
        array == 0, sampling=sampling, return_indices=True
    )
    theirs, ours = array[tuple(places)], nearest[0, 0].numpy()
    np.testing.assert_allclose(distance[0, 0].numpy(), true, rtol=2e-6)
    differs = theirs != ours
    assert differs.mean() < 0.05
    for label in np.unique(ours[differs]):
        here = differs & (ours == label)
        own = ndimage.distance_transform_edt(array != label, sampling=sampling)[here]
        if kind == IRRATIONAL:
            np.testing.assert_allclose(own, true[here], rtol=2e-6)
        else:
            np.testing.assert_array_equal(own, true[here])
            assert (label < theirs[here]).all()


@publicly
def test_equals_the_loop_over_components(machine: Machine) -> None:
    labels = blobs((20, 24, 28), 0.03, seed=1)
    array = labels[0, 0].numpy()
    count = int(array.max())
    assert count > 8
    fields = [ndimage.distance_transform_edt(array != k) for k in range(1, count + 1)]
    expected = np.argmin(np.stack(fields), axis=0) + 1  # the first of equal ones
    assert np.array_equal(nearest_component(labels, impl=machine.impl)[0, 0].numpy(), expected)


@publicly
@by_kind
def test_the_order_of_the_axes_changes_nothing(machine: Machine, kind: str) -> None:
    labels = blobs((7, 9, 12), 0.1)
    case = Case(labels, kind)
    expected, distance = run(machine, case)
    for order in itertools.permutations(range(3)):
        axes = [0, 1, *(2 + axis for axis in order)]
        moved = labels.permute(axes).contiguous()
        spacing = [case.spacing[axis] for axis in order]
        found, far = nearest_component(moved, spacing, distance=True, impl=machine.impl)
        torch.testing.assert_close(far, distance.permute(axes), rtol=3e-7, atol=0)
        if kind != IRRATIONAL:
            assert torch.equal(found, expected.permute(axes))
    if kind != IRRATIONAL:
        flipped = nearest_component(labels.flip(2, 3, 4), case.spacing, impl=machine.impl)
        assert torch.equal(flipped, expected.flip(2, 3, 4))


@publicly
@pytest.mark.parametrize("scale", [1e-29, 1e-6, 1e6, 1e28])
def test_spacing_is_a_unit(machine: Machine, scale: float) -> None:
    labels = blobs((5, 9, 11), 0.1)
    for kind in (UNIT, THICK, IRRATIONAL):
        case = Case(labels, kind)
        expected, distance = run(machine, case)
        spacing = [scale * w for w in case.spacing]
        nearest, far = nearest_component(labels, spacing, distance=True, impl=machine.impl)
        assert torch.equal(nearest, expected)
        torch.testing.assert_close(far.double(), scale * distance.double(), rtol=1e-6, atol=0)


@publicly
def test_spacings_far_apart(machine: Machine) -> None:
    labels = torch.zeros(1, 1, 3, 3, 7, dtype=torch.int64)
    labels[0, 0, 1, 1, 1], labels[0, 0, 1, 1, 4], labels[0, 0, 0, 0, 0] = 3, 2, 1
    nearest = nearest_component(labels, (1e12, 1e12, 1e-12), impl=machine.impl)
    assert nearest[0, 0, 1, 1].tolist() == [3, 3, 3, 2, 2, 2, 2]
    assert nearest[0, 0, 0, 0].tolist() == [1] * 7
    # Those of float32 are what was meant, too.
    stored = np.array([3, 0.8, 0.55], dtype=np.float32)
    wide = blobs((9, 11, 12), 0.1)
    expected = nearest_component(wide, (3, 0.8, 0.55), impl=machine.impl)
    assert torch.equal(nearest_component(wide, stored, impl=machine.impl), expected)


@publicly
def test_distances_are_those_of_distance_transform(machine: Machine) -> None:
    labels = blobs((6, 11, 17), 0.05)
    for kind in (UNIT, IRRATIONAL):
        case = Case(labels, kind)
        _, distance = run(machine, case)
        outside = distance_transform(labels, case.spacing, side="outside", impl=machine.impl)
        torch.testing.assert_close(distance, outside, rtol=4e-7, atol=0)


@publicly
def test_expanding_labels_and_cells(machine: Machine) -> None:
    labels = blobs((40, 50), 0.05)
    nearest, distance = nearest_component(labels, distance=True, impl=machine.impl)
    assert (nearest > 0).all()
    assert torch.equal(nearest[labels > 0], labels[labels > 0])
    assert torch.equal(distance == 0, labels > 0)
    assert torch.equal(nearest_component(nearest, impl=machine.impl), nearest)
    expanded = torch.where(distance <= 2, nearest, 0)
    grown = ndimage.binary_dilation(
        labels[0, 0].numpy() > 0, ndimage.generate_binary_structure(2, 1), 1
    )
    assert (expanded[0, 0].numpy()[grown] > 0).all()
