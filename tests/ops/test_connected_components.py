"""connected_components against scipy, bit for bit, by every implementation and instruction set."""

from __future__ import annotations

import random
from types import ModuleType
from typing import Any

import pytest
import torch

import segloss_fast
from segloss_fast import Components, connected_components
from segloss_fast.ops.connected_components.op import kernels
from tests.ops.connected_components_cases import (
    IMPLS,
    Case,
    by_scipy,
    call,
    check,
    checkerboard,
    comb,
    connectivities,
    random_case,
    small_masks,
    spiral,
    worst_cases,
)
from tests.suite.tiers import begins_in, few

by_impl = pytest.mark.parametrize("impl", IMPLS)
needs_native = pytest.mark.skipif("native" not in IMPLS, reason="the kernels are not built")


@by_impl
@pytest.mark.parametrize("size", [(1,), (9,), (3, 3), (2, 4), (2, 2, 2)], ids=str)
def test_all_small_masks(impl: str, size: tuple[int, ...]) -> None:
    masks = small_masks(*size)
    for connectivity in connectivities(len(size)):
        check(call(Case(masks, connectivity), impl), Case(masks, connectivity))


@needs_native
@begins_in("all")
@pytest.mark.parametrize("connectivity", ["faces", "edges", "full"])
def test_all_masks_of_18_voxels(connectivity: str) -> None:
    """As channels of few items: scipy labels them one beside the other, apart."""
    masks = small_masks(3, 3, 2)
    found = connected_components(masks, connectivity=connectivity, impl="native")
    differing = ["faces", "edges", "full"].index(connectivity) + 1
    apart = torch.nn.functional.pad(masks[:, 0], (0, 0, 0, 0, 0, 1)).flatten(0, 1)
    labels, _ = by_scipy(apart.numpy(), differing)
    expected = torch.from_numpy(labels).view(len(masks), 4, 3, 2)[:, :3]
    before = found.count.long().cumsum(0) - found.count
    relative = torch.where(masks[:, 0], expected - before[..., None, None], 0)
    assert torch.equal(found.labels[:, 0].long(), relative)
    assert int(found.count.sum()) == labels.max()


@by_impl
@pytest.mark.parametrize("seed", few(range(8), test=3))
def test_random_problems(impl: str, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(25):
        case = random_case(draw)
        check(call(case, impl), case)


@by_impl
@pytest.mark.parametrize("density", few([0.3, 0.01, 0.15, 0.5, 0.8], test=2))
@pytest.mark.parametrize("size", few([(20, 31, 65), (300, 127), (40, 64, 63)], test=2), ids=str)
def test_noise(impl: str, size: tuple[int, ...], density: float) -> None:
    torch.manual_seed(0)
    mask = torch.rand(1, 2, *size) < density
    for connectivity in connectivities(len(size)):
        check(call(Case(mask, connectivity), impl), Case(mask, connectivity))
        values = mask[:, :1] * torch.randint(1, 4, (1, 1, *size))
        case = Case(values, connectivity, by_value=True)
        check(call(case, impl), case)


@by_impl
def test_worst_cases(impl: str) -> None:
    for mask in worst_cases():
        for connectivity in connectivities(mask.dim() - 2):
            check(call(Case(mask, connectivity), impl), Case(mask, connectivity))


@needs_native
@pytest.mark.parametrize("connectivity", ["faces", "edges", "full"])
def test_several_slabs_and_masks(connectivity: str) -> None:
    """Large enough to be cut; slices that are cut in the middle, too."""
    torch.manual_seed(0)
    for size in [(70, 96, 130), (2, 700, 513), (1, 1, 900_000)]:
        for density in (0.02, 0.25, 0.6):
            mask = torch.rand(1, 2, *size) < density
            case = Case(mask, connectivity)
            check(call(case, "native"), case)
    labels = torch.nn.functional.interpolate(torch.rand(2, 1, 9, 12, 9), size=(70, 96, 130))
    case = Case((labels * 6).to(torch.uint8), connectivity, by_value=True)
    check(call(case, "native"), case)


@needs_native
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_change_nothing(threads: int) -> None:
    torch.manual_seed(1)
    mask = torch.rand(2, 2, 64, 96, 100) < 0.2
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        case = Case(mask, "full")
        check(call(case, "native"), case)
        case = Case(mask[:, :1] * torch.randint(1, 3, (2, 1, 64, 96, 100)), "faces", by_value=True)
        check(call(case, "native"), case)
    finally:
        torch.set_num_threads(before)


@needs_native
@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
def test_instruction_sets(cpu_capability: ModuleType, capability: str) -> None:
    try:
        cpu_capability.set_cpu_capability(capability)
    except RuntimeError:
        pytest.skip(f"this machine has no {capability}")
    draw = random.Random(7)
    for _ in range(60):
        case = random_case(draw)
        check(call(case, "native"), case)
    for mask in worst_cases():
        check(call(Case(mask, "full"), "native"), Case(mask, "full"))


@by_impl
@pytest.mark.parametrize(
    "shape",
    [(0, 2, 5), (2, 0, 5), (2, 3, 0), (2, 3, 4, 0), (1, 1, 0, 3, 4), (3, 1, 4, 0, 2)],
    ids=str,
)
def test_empty(impl: str, shape: tuple[int, ...]) -> None:
    found = connected_components(torch.ones(shape), impl=impl)
    assert found.labels.shape == shape
    assert found.count.shape == shape[:2]
    assert not found.count.any()
    if shape[1] == 1:
        found = connected_components(torch.ones(shape).long(), by_value=True, impl=impl)
        assert found.value is not None
        assert found.value.shape == (shape[0], 0)


@by_impl
def test_the_ways_to_say_which_voxels_connect(impl: str) -> None:
    torch.manual_seed(0)
    names: list[dict[Any, str]] = [
        {2: "full", "faces": "full"},
        {4: "faces", 8: "full"},
        {6: "faces", 18: "edges", 26: "full"},
    ]
    for axes, pairs in enumerate(names, 1):
        mask = torch.rand(1, 1, *[12] * axes) < 0.4
        for one, other in pairs.items():
            found = connected_components(mask, connectivity=one, impl=impl)
            expected = connected_components(mask, connectivity=other, impl=impl)
            assert torch.equal(found.labels, expected.labels)


@by_impl
def test_axes_of_one_voxel(impl: str) -> None:
    image = torch.rand(1, 1, 20, 66, generator=torch.Generator().manual_seed(3)) < 0.4
    expected = connected_components(image, impl=impl).labels
    for shape in [(1, 20, 66), (20, 1, 66), (20, 66, 1)]:
        volume = image.view(1, 1, *shape)
        found = connected_components(volume, impl=impl).labels
        assert torch.equal(found.view(expected.shape), expected)
        edges = connected_components(volume, connectivity="edges", impl=impl).labels
        assert torch.equal(edges, found)


@by_impl
def test_labels_connect_as_they_were(impl: str) -> None:
    """By value, on its own result."""
    torch.manual_seed(0)
    mask = torch.rand(2, 1, 12, 13, 70) < 0.25
    once = connected_components(mask, impl=impl)
    again = connected_components(once.labels, by_value=True, impl=impl)
    assert torch.equal(again.labels, once.labels)
    assert again.value is not None
    for found, count in zip(again.value, once.count[:, 0], strict=True):
        assert found[: int(count)].tolist() == list(range(1, int(count) + 1))


@by_impl
def test_known_shapes(impl: str) -> None:
    for connectivity in ("faces", "full"):
        count = connected_components(spiral(41), connectivity=connectivity, impl=impl).count
        assert count.item() == 1
        assert connected_components(comb(7, 99), connectivity=connectivity, impl=impl).count == 1
    board = checkerboard(6, 7, 8)
    assert (
        connected_components(board, connectivity="faces", impl=impl).count.item() == 6 * 7 * 8 / 2
    )
    assert connected_components(board, connectivity="edges", impl=impl).count.item() == 1


@by_impl
def test_the_record(impl: str) -> None:
    mask = torch.rand(2, 3, 4, 5, requires_grad=True)
    before = mask.detach().clone()
    found = connected_components(mask, impl=impl)
    assert isinstance(found, Components)
    assert not found.labels.requires_grad
    assert torch.equal(mask.detach(), before)
    with pytest.raises(AttributeError):
        found.count = found.labels  # type: ignore[misc]


def test_auto_takes_the_kernels() -> None:
    best = "native" if "native" in IMPLS else "reference"
    assert kernels.choose("auto", torch.device("cpu")) == best
    mask = torch.rand(1, 1, 9, 9) < 0.5
    expected = connected_components(mask, impl="reference").labels
    assert torch.equal(connected_components(mask).labels, expected)
    said = [b for b in segloss_fast.backends() if b.primitive == "connected_components"]
    assert {b.impl for b in said} == {"reference", "native"}
