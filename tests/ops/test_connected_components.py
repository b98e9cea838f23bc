"""What connected_components promises on every machine: the components of scipy, bit for bit."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

import segloss_fast
from segloss_fast import Components, connected_components
from segloss_fast.ops.connected_components.op import kernels
from tests.machines import Machine, on, sized
from tests.ops.connected_components_cases import (
    Case,
    by_scipy,
    checkerboard,
    comb,
    compare,
    connectivities,
    random_case,
    small_masks,
    spiral,
    worst_cases,
)
from tests.suite.tiers import begins_in, few

publicly = on("reference", "native")  # the shim has operators only


@sized(
    "size",
    [(1,), (9,), (3, 3), (2, 4), (2, 2, 2)],
    shim=[(9,), (3, 3), (2, 2, 2)],
    cuda=[(9,), (3, 3), (2, 2, 3)],
)
def test_all_small_masks(machine: Machine, size: tuple[int, ...]) -> None:
    masks = small_masks(*size)[:: machine.pick(1, shim=3)]
    for connectivity in connectivities(len(size)):
        compare(machine, Case(masks, connectivity))


@on("native")
@begins_in("all")
@pytest.mark.parametrize("connectivity", ["faces", "edges", "full"])
def test_all_masks_of_18_voxels(machine: Machine, connectivity: str) -> None:
    """As channels of few items: scipy labels them one beside the other, apart."""
    masks = small_masks(3, 3, 2)
    found = connected_components(masks, connectivity=connectivity, impl=machine.impl)
    differing = ["faces", "edges", "full"].index(connectivity) + 1
    apart = torch.nn.functional.pad(masks[:, 0], (0, 0, 0, 0, 0, 1)).flatten(0, 1)
    labels, _ = by_scipy(apart.numpy(), differing)
    expected = torch.from_numpy(labels).view(len(masks), 4, 3, 2)[:, :3]
    before = found.count.long().cumsum(0) - found.count
    relative = torch.where(masks[:, 0], expected - before[..., None, None], 0)
    assert torch.equal(found.labels[:, 0].long(), relative)
    assert int(found.count.sum()) == labels.max()


@on(sets=True)
@sized("seed", few(range(8), test=3), shim=range(2), cuda=range(4))
def test_random_problems(machine: Machine, seed: int) -> None:
    draw = random.Random(seed)
    for number in range(machine.pick(25, shim=80, cuda=150)):
        machine.set_order(seed * number)
        compare(machine, random_case(draw))


@on("reference", "native", "cuda")
@sized(
    "density",
    few([0.3, 0.01, 0.15, 0.5, 0.8], test=2),
    cuda=[0.01, 0.15, 0.3, 0.5, 0.9, 1.0],
)
@sized(
    "size",
    few([(20, 31, 65), (300, 127), (40, 64, 63)], test=2),
    cuda=[(96, 97, 130), (1000, 1023), (300_001,)],
)
def test_noise(machine: Machine, density: float, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    mask = torch.rand(1, 2, *size) < density
    for connectivity in connectivities(len(size)):
        compare(machine, Case(mask, connectivity))
        values = mask[:, :1] * torch.randint(1, 4, (1, 1, *size))
        compare(machine, Case(values, connectivity, by_value=True))


@on(sets=True)
def test_worst_cases(machine: Machine) -> None:
    for number, mask in enumerate(worst_cases()):
        machine.set_order(number % 3)
        for connectivity in connectivities(mask.dim() - 2):
            compare(machine, Case(mask, connectivity))


@on("native")
@pytest.mark.parametrize("connectivity", ["faces", "edges", "full"])
def test_several_slabs_and_masks(machine: Machine, connectivity: str) -> None:
    """Large enough to be cut; slices that are cut in the middle, too."""
    torch.manual_seed(0)
    for size in [(70, 96, 130), (2, 700, 513), (1, 1, 900_000)]:
        for density in (0.02, 0.25, 0.6):
            mask = torch.rand(1, 2, *size) < density
            compare(machine, Case(mask, connectivity))
    labels = torch.nn.functional.interpolate(torch.rand(2, 1, 9, 12, 9), size=(70, 96, 130))
    compare(machine, Case((labels * 6).to(torch.uint8), connectivity, by_value=True))


@on("native")
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_change_nothing(machine: Machine, threads: int) -> None:
    torch.manual_seed(1)
    mask = torch.rand(2, 2, 64, 96, 100) < 0.2
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        compare(machine, Case(mask, "full"))
        values = mask[:, :1] * torch.randint(1, 3, (2, 1, 64, 96, 100))
        compare(machine, Case(values, "faces", by_value=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "shape",
    [(0, 2, 5), (0, 1, 4), (2, 0, 5), (2, 3, 0), (2, 3, 4, 0), (1, 1, 0, 3, 4), (3, 1, 4, 0, 2)],
    ids=str,
)
def test_empty(machine: Machine, shape: tuple[int, ...]) -> None:
    compare(machine, Case(torch.ones(shape), "full"))
    if shape[1] == 1:
        compare(machine, Case(torch.ones(shape).long(), "full", by_value=True))


@publicly
def test_the_ways_to_say_which_voxels_connect(machine: Machine) -> None:
    torch.manual_seed(0)
    names: list[dict[Any, str]] = [
        {2: "full", "faces": "full"},
        {4: "faces", 8: "full"},
        {6: "faces", 18: "edges", 26: "full"},
    ]
    for axes, pairs in enumerate(names, 1):
        mask = torch.rand(1, 1, *[12] * axes) < 0.4
        for one, other in pairs.items():
            found = connected_components(mask, connectivity=one, impl=machine.impl)
            expected = connected_components(mask, connectivity=other, impl=machine.impl)
            assert torch.equal(found.labels, expected.labels)


@publicly
def test_axes_of_one_voxel(machine: Machine) -> None:
    image = torch.rand(1, 1, 20, 66, generator=torch.Generator().manual_seed(3)) < 0.4
    expected = connected_components(image, impl=machine.impl).labels
    for shape in [(1, 20, 66), (20, 1, 66), (20, 66, 1)]:
        volume = image.view(1, 1, *shape)
        found = connected_components(volume, impl=machine.impl).labels
        assert torch.equal(found.view(expected.shape), expected)
        edges = connected_components(volume, connectivity="edges", impl=machine.impl).labels
        assert torch.equal(edges, found)


@publicly
def test_labels_connect_as_they_were(machine: Machine) -> None:
    """By value, on its own result."""
    torch.manual_seed(0)
    mask = torch.rand(2, 1, 12, 13, 70) < 0.25
    once = connected_components(mask, impl=machine.impl)
    again = connected_components(once.labels, by_value=True, impl=machine.impl)
    assert torch.equal(again.labels, once.labels)
    assert again.value is not None
    for found, count in zip(again.value, once.count[:, 0], strict=True):
        assert found[: int(count)].tolist() == list(range(1, int(count) + 1))


@publicly
def test_known_shapes(machine: Machine) -> None:
    for connectivity in ("faces", "full"):
        count = connected_components(spiral(41), connectivity=connectivity, impl=machine.impl).count
        assert count.item() == 1
        assert (
            connected_components(comb(7, 99), connectivity=connectivity, impl=machine.impl).count
            == 1
        )
    board = checkerboard(6, 7, 8)
    assert (
        connected_components(board, connectivity="faces", impl=machine.impl).count.item()
        == 6 * 7 * 8 / 2
    )
    assert connected_components(board, connectivity="edges", impl=machine.impl).count.item() == 1


@publicly
def test_the_record(machine: Machine) -> None:
    mask = torch.rand(2, 3, 4, 5, requires_grad=True)
    before = mask.detach().clone()
    found = connected_components(mask, impl=machine.impl)
    assert isinstance(found, Components)
    assert not found.labels.requires_grad
    assert torch.equal(mask.detach(), before)
    with pytest.raises(AttributeError):
        found.count = found.labels  # type: ignore[misc]


def test_auto_takes_the_kernels() -> None:
    best = "reference" if kernels.why_not("native", torch.device("cpu")) else "native"
    assert kernels.choose("auto", torch.device("cpu")) == best
    mask = torch.rand(1, 1, 9, 9) < 0.5
    expected = connected_components(mask, impl="reference").labels
    assert torch.equal(connected_components(mask).labels, expected)
    said = [b for b in segloss_fast.backends() if b.primitive == "connected_components"]
    assert {b.impl for b in said} == {"reference", "native"}
