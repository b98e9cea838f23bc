"""nearest_component inside torch: layouts, dtypes, threads, memory, compile."""

from __future__ import annotations

import itertools
from types import ModuleType

import pytest
import torch
from torch import Tensor

from segloss_fast import nearest_component
from segloss_fast.ops.distance_transform.nearest import DTYPES
from tests.helpers import peak_allocation
from tests.machines import Machine, on
from tests.ops.nearest_cases import (
    IRRATIONAL,
    LAYOUTS,
    SPACINGS,
    UNIT,
    Case,
    blobs,
    check,
    lay_out_labels,
    random_labels,
)
from tests.suite.tiers import begins_in, few

publicly = on("reference", "native")  # kernels of GPUs: test_nearest_component_limits.py
LABELS = blobs((4, 5, 6), 0.2)


@publicly
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(machine: Machine, dtype: torch.dtype) -> None:
    labels = LABELS.clamp_max(1) if dtype == torch.bool else LABELS
    expected = nearest_component(labels, 0.7, impl=machine.impl)
    assert torch.equal(nearest_component(labels.to(dtype), 0.7, impl=machine.impl), expected)
    if dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        most = torch.iinfo(dtype).max
        labels = (LABELS == 1) + (LABELS == 2) * most
        nearest = nearest_component(labels.to(dtype), impl=machine.impl)
        expected = nearest_component(labels.clamp_max(2), impl=machine.impl)
        assert torch.equal(nearest.clamp_max(2), expected)
        assert int(nearest.max()) == most


@publicly
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(37,), (9, 21), (3, 7, 18), (3, 1, 40)], ids=str)
def test_any_strides(machine: Machine, layout: str, size: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.int16, torch.int64):
        values = random_labels((2, 3, *size), 0.1, 30, generator).to(dtype)
        labels = lay_out_labels(values, layout)
        expected = nearest_component(labels.contiguous(), 0.7, distance=True, impl=machine.impl)
        before = labels.clone()
        found = nearest_component(labels, 0.7, distance=True, impl=machine.impl)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=3e-7, atol=0, check_stride=False)
        assert torch.equal(labels, before)


@publicly
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_axes_in_any_order_of_memory(machine: Machine, order: tuple[int, int, int]) -> None:
    labels = blobs((7, 5, 18), 0.1)
    inverse = [order.index(axis) for axis in range(3)]
    stored = labels.permute(0, 1, *(2 + axis for axis in order)).contiguous()
    view = stored.permute(0, 1, *(2 + axis for axis in inverse))
    case = Case(view, "decimal")
    nearest, distance = nearest_component(view, case.spacing, distance=True, impl=machine.impl)
    check(case, nearest, distance)
    assert machine.impl == "reference" or nearest.stride() == distance.stride() == view.stride()


@on("native")
@pytest.mark.parametrize("spacing", [(1.0,), SPACINGS[IRRATIONAL][0]], ids=["unit", "irrational"])
def test_long_lines(machine: Machine, spacing: tuple[float, ...]) -> None:
    """Past what 16 bits count, along every axis; where keys have few bits left, or none."""
    generator = torch.Generator().manual_seed(0)
    line = random_labels((40_000,), 1e-4, 3, generator)
    places = line.nonzero()[:, 0]
    away = (torch.arange(40_000)[:, None] - places).abs()
    ties = torch.where(away == away.amin(1, keepdim=True), line[places], 9)
    expected = ties.amin(1).int()
    for shape in [(40_000,), (40_000, 1), (1, 40_000, 1), (40_000, 3)]:
        steps = [w for w, _ in zip(itertools.cycle(spacing), shape, strict=False)]
        wide = line.view(-1, 1).expand(-1, 3) if shape[-1] == 3 else line.view(shape)
        nearest, distance = nearest_component(
            wide[None, None], steps, distance=True, impl=machine.impl
        )
        assert torch.equal(nearest.view(40_000, -1)[:, 0], expected)
        axis = shape.index(40_000)
        true = away.amin(1).double() * steps[axis]
        torch.testing.assert_close(
            distance.view(40_000, -1)[:, 0].double(), true, rtol=2e-6, atol=0
        )


@on("native")
def test_implementations_agree(machine: Machine) -> None:
    labels = blobs((9, 20, 33), 0.03)
    for kind, (spacing, integers) in SPACINGS.items():
        expected = nearest_component(labels, spacing, distance=True, impl=machine.impl)
        found = nearest_component(labels, spacing, distance=True, impl="reference")
        torch.testing.assert_close(found[1], expected[1], rtol=4e-7, atol=0)
        if integers is not None:
            assert torch.equal(found[0], expected[0]), kind


@on("native")
@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(machine: Machine, cpu_capability: ModuleType, level: str) -> None:
    best = cpu_capability.cpu_capability()
    generator = torch.Generator().manual_seed(0)
    for size in [(83,), (31, 40), (9, 33, 19), (12, 16, 70)]:
        for density, kind in itertools.product((0.0, 0.001, 0.05, 0.6), SPACINGS):
            labels = random_labels((2, 2, *size), density, 2000, generator)
            case = Case(labels, kind)
            cpu_capability.set_cpu_capability(best)
            expected = nearest_component(labels, case.spacing, distance=True)
            try:
                cpu_capability.set_cpu_capability(level)
            except RuntimeError as error:
                pytest.skip(str(error))
            found = nearest_component(labels, case.spacing, distance=True)
            assert torch.equal(found[1], expected[1])
            assert torch.equal(found[0], expected[0]), (size, density, kind)


@on("native")
@pytest.mark.parametrize("size", [(5000,), (130, 141), (61, 40, 37), (60, 61, 5)], ids=str)
def test_bits_do_not_depend_on_threads_or_on_the_run(
    machine: Machine, size: tuple[int, ...]
) -> None:
    before = torch.get_num_threads()
    generator = torch.Generator().manual_seed(0)
    for density, kind in itertools.product((0.0005, 0.3), (UNIT, IRRATIONAL)):
        case = Case(random_labels((2, 3, *size), density, 500, generator), kind)
        expected = nearest_component(case.labels, case.spacing, distance=True, impl=machine.impl)
        try:
            for threads in (1, 2, 7):
                torch.set_num_threads(threads)
                found = nearest_component(
                    case.labels, case.spacing, distance=True, impl=machine.impl
                )
                assert torch.equal(found[0], expected[0]), threads
                assert torch.equal(found[1], expected[1]), threads
        finally:
            torch.set_num_threads(before)


@on("native")
def test_every_output_is_written(machine: Machine) -> None:
    """In deterministic mode torch fills fresh memory, the kernels' scratch included."""
    generator = torch.Generator().manual_seed(0)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3, dtype=torch.int32).tolist() == [2**31 - 1] * 3
        for size in [(1,), (70,), (17, 33), (9, 17, 33), (40, 5, 3)]:
            for density, kind in itertools.product((0.0, 0.01, 1.0), (UNIT, IRRATIONAL)):
                case = Case(random_labels((1, 2, *size), density, 500, generator), kind)
                found = nearest_component(
                    case.labels, case.spacing, distance=True, impl=machine.impl
                )
                assert int(found[0].max()) <= 500
                assert not found[1].isnan().any()
    finally:
        torch.use_deterministic_algorithms(False)


@on("native")
@pytest.mark.parametrize("size", [(64, 64, 64), (256, 256), (12, 160, 160)], ids=str)
def test_memory(machine: Machine, size: tuple[int, ...]) -> None:
    """Beside the output, keys need scratch memory of a few tiles; squares as much as labels."""
    generator = torch.Generator().manual_seed(0)
    labels = random_labels((2, 3, *size), 0.1, 100, generator).int()
    output = 4 * labels.numel()
    for layout in ("contiguous", "sliced", "channels_last", "transposed"):
        for kind, most in ((UNIT, 1.5), (IRRATIONAL, 2.5)):
            case = Case(lay_out_labels(labels, layout), kind)

            def call(case: Case = case) -> object:
                return nearest_component(case.labels, case.spacing, impl=machine.impl)

            assert peak_allocation(call) <= most * output, case


@publicly
def test_offsets_past_2_to_the_31(machine: Machine) -> None:
    """Strides beyond 2^31 elements, over memory of which only the used pages exist."""
    far = 2**31 + 5
    labels = blobs((2, 3, 5), 0.2).byte()
    storage = torch.empty(far + 30, dtype=torch.uint8)
    view = storage.as_strided((1, 1, 2, 3, 5), (1, 1, far, 5, 1))
    view.copy_(labels)
    expected = nearest_component(labels, impl=machine.impl)
    assert torch.equal(nearest_component(view, impl=machine.impl), expected)


@begins_in("test")
@on("native")
@pytest.mark.parametrize("layout", ["sliced", "channels_last", "transposed"])
def test_opcheck(machine: Machine, layout: str) -> None:
    labels = lay_out_labels(blobs((3, 4, 5), 0.2).expand(2, 3, -1, -1, -1), layout)
    operator = torch.ops.segloss_fast.nearest_component
    for distance in (False, True):
        torch.library.opcheck(operator, (labels, [1.0, 0.5, 2.0], distance, machine.impl))
    torch.library.opcheck(operator, (labels[0, :, :1].byte(), [0.5, 2**0.5], True, machine.impl))


@pytest.mark.torch_compile
@publicly
@pytest.mark.parametrize("backend", few(["aot_eager", "inductor"], test=1))
def test_compiles_into_one_graph(machine: Machine, backend: str) -> None:
    if (backend, machine.impl) == ("inductor", "reference"):
        pytest.skip("a graph of torch's operators, which are not ours to test")
    labels = blobs((5, 6, 7), 0.1)

    def cells(labels: Tensor, values: Tensor) -> Tensor:
        nearest, distance = nearest_component(
            labels, (2.0, 1.0, 0.5), distance=True, impl=machine.impl
        )
        return values.new_zeros(9).index_add(0, nearest.flatten(), (values * distance).flatten())

    values = torch.rand(labels.shape, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(cells, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(labels, values), cells(labels, values))
    torch._dynamo.reset()


@pytest.mark.torch_compile
@on("native")
def test_sizes_and_spacing_may_change_under_compile(machine: Machine) -> None:
    compiled = torch.compile(
        lambda labels, w: nearest_component(labels, w, impl=machine.impl),
        fullgraph=True,
        dynamic=True,
    )
    for number, size in enumerate([(5, 6), (7, 8), (9, 3)]):
        labels = blobs(size, 0.2)
        spacing = 1.0 + number, 2.0
        expected = nearest_component(labels, spacing, impl=machine.impl)
        assert torch.equal(compiled(labels, spacing), expected)
    torch._dynamo.reset()
