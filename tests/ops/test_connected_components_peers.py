"""connected_components against connected-components-3d and scikit-image, which number alike."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from segloss_fast import connected_components
from tests.machines import Machine, on
from tests.ops.connected_components_cases import connectivities

pytestmark = pytest.mark.peers

publicly = on("reference", "native")  # the shim has operators only
SIZES = [(5, 6, 70), (9, 17, 33), (24, 65)]
NEIGHBOURS = {2: {"faces": 4, "full": 8}, 3: {"faces": 6, "edges": 18, "full": 26}}


def label_map(size: tuple[int, ...], classes: int) -> torch.Tensor:
    """Return classes in pieces, background among them, ``[1, *size]``."""
    generator = torch.Generator().manual_seed(classes)
    coarse = torch.rand((1, classes, *(-(-n // 3) for n in size)), generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=size)
    return (fine + 0.3 * torch.rand(fine.shape, generator=generator)).argmax(1)


def renumbered(labels: Any) -> torch.Tensor:  # noqa: ANN401
    """Return the same components, numbered by their first voxels."""
    labels = np.asarray(labels).astype(np.int64)
    numbers, first = np.unique(labels, return_index=True)
    inside = numbers != 0
    order = np.zeros(int(numbers.max()) + 1, np.int64)
    order[numbers[inside]] = first[inside].argsort().argsort() + 1
    return torch.from_numpy(order[labels])


@publicly
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_cc3d(machine: Machine, size: tuple[int, ...]) -> None:
    cc3d = pytest.importorskip("cc3d")
    for classes, connectivity in itertools.product((2, 5), connectivities(len(size))):
        labels = label_map(size, classes).to(torch.uint8)
        neighbours = NEIGHBOURS[len(size)][connectivity]
        for by_value in (False, True):
            found = connected_components(
                labels if by_value else labels[:, None],
                connectivity=connectivity,
                by_value=by_value,
                impl=machine.impl,
            )
            given = labels[0].numpy() if by_value else labels[0].numpy() != 0
            expected, count = cc3d.connected_components(
                given, connectivity=neighbours, return_N=True
            )
            assert found.count.item() == count
            if len(size) == 3:  # of images it numbers in another order
                assert torch.equal(found.labels[0, 0].long(), torch.from_numpy(expected).long())
            assert torch.equal(found.labels[0, 0].long(), renumbered(expected))


@publicly
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_scikit_image(machine: Machine, size: tuple[int, ...]) -> None:
    measure = pytest.importorskip("skimage.measure")
    for classes, connectivity in itertools.product((2, 5), connectivities(len(size))):
        labels = label_map(size, classes)
        found = connected_components(
            labels, connectivity=connectivity, by_value=True, impl=machine.impl
        )
        differing = {"faces": 1, "edges": 2, "full": len(size)}[connectivity]
        expected = measure.label(labels[0].numpy(), background=0, connectivity=differing)
        assert torch.equal(found.labels[0, 0].long(), torch.from_numpy(expected).long())
