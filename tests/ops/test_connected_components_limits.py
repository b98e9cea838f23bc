"""Where connected_components' kernels cut, and labels of any dtype, layout and value."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from segloss_fast import connected_components
from segloss_fast.ops.connected_components.contract import DTYPES
from segloss_fast.ops.connected_components.reference import UNSIGNED, as_signed
from tests.machines import Machine, on, sized
from tests.ops.connected_components_cases import (
    WIDTHS,
    Case,
    by_scipy,
    check,
    compare,
    connectivities,
    random_labels,
    run,
)
from tests.ops.distance_transform_cases import DTYPES as KNOWN
from tests.ops.distance_transform_cases import LAYOUTS, lay_out

publicly = on("reference", "native")  # the shim has operators only


@sized("size", [(37,), (9, 70), (5, 7, 66), (3, 1, 40)], shim=[(3, 5, 40)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtypes_and_layouts(machine: Machine, size: tuple[int, ...], layout: str) -> None:
    draw = random.Random(0)
    for dtype in machine.pick((torch.float32, torch.int32), shim=KNOWN):
        labels = lay_out(random_labels((2, 3, *size), dtype, draw, by_value=False), layout)
        for ignored in (None, 1, 2**40):
            compare(machine, Case(labels, "full", ignore_index=ignored))
        if not dtype.is_floating_point:
            labels = lay_out(random_labels((2, 1, *size), dtype, draw, by_value=True), layout)
            for connectivity in connectivities(len(size)):
                compare(machine, Case(labels, connectivity, by_value=True, ignore_index=1))


@on("shim", "cuda")
@pytest.mark.parametrize("width", WIDTHS)
def test_widths(machine: Machine, width: int) -> None:
    draw = random.Random(width)
    for space in ((width,), (5, width), (3, 4, width)):
        for connectivity in connectivities(len(space)):
            labels = random_labels((2, 2, *space), torch.uint8, draw, by_value=False)
            compare(machine, Case(labels, connectivity))
            labels = random_labels((2, 1, *space), torch.int16, draw, by_value=True)
            compare(machine, Case(labels, connectivity, by_value=True, ignore_index=2))


@on("shim", "cuda")
def test_more_roots_than_a_block_scans(machine: Machine) -> None:
    """A mask of more blocks than the scan has threads."""
    mask = torch.zeros(1, 2, 4500, 2, dtype=torch.bool)
    mask[:, 0, ::2] = True
    mask[:, 1, 5::9] = True
    compare(machine, Case(mask, "full"))


@publicly
@pytest.mark.parametrize(
    "order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)], ids=str
)
def test_the_order_of_memory_changes_no_number(
    machine: Machine, order: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    inverse = [2 + order.index(axis) for axis in range(3)]
    sizes = [(7, 5, 18), *machine.pick([], native=[(64, 96, 100)])]
    for size in sizes:
        labels = torch.rand(2, 1, *size) < 0.2
        stored = labels.permute(0, 1, *(2 + axis for axis in order)).contiguous()
        for values in (stored, stored * torch.randint(1, 3, stored.shape)):
            view = values.permute(0, 1, *inverse)
            case = Case(view, "edges", by_value=values.dtype != torch.bool)
            found = run(machine, case)
            check(found, case)
            assert machine.impl == "reference" or found[0].stride() == view.stride()


@publicly
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(machine: Machine, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    inside = torch.rand(2, 1, 5, 6, 70) < 0.3
    expected = connected_components(inside, impl=machine.impl)
    values: list[float]
    if dtype == torch.bool:
        values = [True]
    elif dtype.is_floating_point:
        tiny = torch.finfo(dtype).smallest_normal
        values = [1.0, -0.25, tiny, torch.finfo(dtype).max, torch.inf, -torch.inf, torch.nan]
        values.append(tiny * torch.finfo(dtype).eps)  # the smallest of all
    else:
        limits = torch.iinfo(dtype)
        values = [1, limits.max, limits.min or 2, 2 ** (limits.bits - 2)]
    for value in values:
        labels = torch.full(inside.shape, value, dtype=dtype)
        as_signed(labels)[~inside] = -0.0 if dtype.is_floating_point else 0
        found = connected_components(labels, impl=machine.impl)
        assert torch.equal(found.labels, expected.labels), value
        assert torch.equal(found.count, expected.count), value
        assert found.value is None


@publicly
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "ignored", [0, 1, -1, 3, 127, 255, 256, 2048, 2049, 40_000, -(2**31), 2**31, 2**53 + 1]
)
def test_what_is_ignored(machine: Machine, dtype: torch.dtype, ignored: int) -> None:
    """Exactly this label, of which another dtype may have none."""
    if dtype.is_floating_point:
        held = float(torch.tensor(ignored, dtype=torch.float64).to(dtype)) == ignored
        held = held and float(ignored) == ignored and int(float(ignored)) == ignored
    elif dtype == torch.bool:
        held = ignored in (0, 1)
    else:
        held = torch.iinfo(dtype).min <= ignored <= torch.iinfo(dtype).max
    labels = torch.ones(1, 1, 40, dtype=torch.bool if dtype == torch.bool else torch.int64)
    values = labels.to(torch.int64 if dtype in UNSIGNED else dtype)
    if dtype in UNSIGNED:
        values = values.to({2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize])
        values = values.view(dtype)
    if held:
        near = torch.tensor([ignored if ignored < 2**63 else 0])
        signed = as_signed(values)
        signed[0, 0, 10] = near.to(signed.dtype)[0]
    found = connected_components(values, ignore_index=ignored, impl=machine.impl)
    ones_too = ignored == 1
    split = held and not ones_too
    count = 0 if ones_too and held else 2 if split else 1
    assert found.count.item() == count


@publicly
def test_ignored_voxels_split_a_component(machine: Machine) -> None:
    labels = torch.tensor([[[1, 1, 255, 1, 0, 2, 2, 1]]], dtype=torch.uint8)
    found = connected_components(labels, ignore_index=255, impl=machine.impl)
    assert found.labels.tolist() == [[[1, 1, 0, 2, 0, 3, 3, 3]]]
    found = connected_components(labels, ignore_index=255, by_value=True, impl=machine.impl)
    assert found.labels.tolist() == [[[1, 1, 0, 2, 0, 3, 3, 4]]]
    assert found.value is not None
    assert found.value.tolist() == [[1, 1, 2, 1]]


@publicly
def test_values_of_all_sizes(machine: Machine) -> None:
    limits = torch.iinfo(torch.int32)
    values = torch.tensor([[limits.min, 5, 0, limits.max, limits.max, -1]])
    found = connected_components(values, by_value=True, impl=machine.impl)
    assert found.labels.tolist() == [[[1, 2, 0, 3, 3, 4]]]
    assert found.value is not None
    assert found.value.tolist() == [[limits.min, 5, limits.max, -1]]
    two = torch.tensor([[1, 0, 2, 3], [0, 0, 0, 7]], dtype=torch.int16)
    found = connected_components(two, by_value=True, impl=machine.impl)
    assert found.count.tolist() == [[3], [1]]
    assert found.value is not None
    assert found.value.tolist() == [[1, 2, 3], [7, 0, 0]]


@publicly
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint32, torch.uint64], ids=str)
def test_values_that_int32_does_not_hold(machine: Machine, dtype: torch.dtype) -> None:
    values = torch.full((1, 70), 2**31, dtype=torch.int64)
    values = values.to(torch.int32).view(dtype) if dtype == torch.uint32 else values.view(dtype)
    with pytest.raises(ValueError, match="labels must be 0, ignore_index or within the range of"):
        connected_components(values, by_value=True, impl=machine.impl)
    found = connected_components(values, by_value=True, ignore_index=2**31, impl=machine.impl)
    assert found.count.tolist() == [[0]]
    assert connected_components(values[:, None], impl=machine.impl).count.tolist() == [[1]]


def test_numpy_in_fortran_order() -> None:
    torch.manual_seed(0)
    volume = np.asfortranarray((torch.rand(30, 40, 50) < 0.2).numpy())
    found = connected_components(torch.from_numpy(volume)[None, None])
    labels, count = by_scipy(volume, 3)
    assert np.array_equal(found.labels[0, 0].numpy(), labels)
    assert found.count.item() == count
