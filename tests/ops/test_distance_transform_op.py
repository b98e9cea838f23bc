"""distance_transform inside torch: operator contract, layouts, dtypes, threads, memory, compile."""

from __future__ import annotations

import itertools
from types import ModuleType

import pytest
import torch
from torch import Tensor

from segloss_fast import distance_transform
from segloss_fast.ops.distance_transform.contract import DTYPES
from tests.helpers import peak_allocation
from tests.ops.masks import IMPLS, KINDS, SIDES, assert_distances, by_scipy, random_mask
from tests.suite.tiers import begins_in, few

by_impl = pytest.mark.parametrize("impl", IMPLS)
needs_native = pytest.mark.skipif("native" not in IMPLS, reason="the kernels are not built")
UNSIGNED = {
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
}
LAYOUTS = ("sliced", "transposed", "expanded", "channels_last", "flipped axes", "strided")


def masks(*size: int, kind: str = "noise") -> Tensor:
    """Return bool masks ``[2, 3, *S]``."""
    return torch.stack([random_mask(size, kind, seed) for seed in range(6)]).view(2, 3, *size)


def lay_out(mask: Tensor, layout: str) -> Tensor:
    """Return the mask (of the first item, if expanded) with other strides."""
    if layout == "expanded":
        return mask[:1].expand_as(mask)
    if layout == "transposed":
        view = torch.empty_like(mask.transpose(-1, 2).contiguous()).transpose(-1, 2)
    elif layout == "channels_last":
        view = torch.empty_like(mask.movedim(1, -1).contiguous()).movedim(-1, 1)
    elif layout == "flipped axes":
        view = torch.empty_like(mask.permute(*reversed(range(mask.dim()))).contiguous())
        view = view.permute(*reversed(range(mask.dim())))
    elif layout == "sliced":
        wide = mask.new_ones([n + 3 for n in mask.shape])
        view = wide[tuple(slice(1, n + 1) for n in mask.shape)]
    else:
        view = mask.new_ones(*mask.shape[:-1], 2 * mask.shape[-1])[..., 1::2]
    return view.copy_(mask)


@by_impl
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(37,), (9, 21), (5, 7, 18), (3, 1, 40)], ids=str)
def test_any_strides(impl: str, layout: str, size: tuple[int, ...]) -> None:
    for dtype in (torch.bool, torch.float32):
        mask = lay_out(masks(*size).to(dtype), layout)
        expected = distance_transform(mask.contiguous(), 0.7, side="signed", impl=impl)
        before = mask.clone()
        found = distance_transform(mask, 0.7, side="signed", impl=impl)
        assert torch.equal(found, expected)
        assert found.is_contiguous() or (
            layout == "transposed" and found.transpose(-1, 2).is_contiguous()
        )
        assert torch.equal(mask, before)


@by_impl
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_axes_in_any_order_of_memory(impl: str, order: tuple[int, int, int]) -> None:
    mask = masks(7, 5, 18).bool()
    spacing = [3.0, 0.8, 1.1]
    inverse = [order.index(axis) for axis in range(3)]
    stored = mask.permute(0, 1, *(2 + axis for axis in order)).contiguous()
    view = stored.permute(0, 1, *(2 + axis for axis in inverse))
    found = distance_transform(view, spacing, side="signed", impl=impl)
    assert_distances(found, by_scipy(mask, spacing, "signed"))
    assert impl == "reference" or found.stride() == view.stride()


@by_impl
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(impl: str, dtype: torch.dtype) -> None:
    inside = masks(5, 6, 19)
    expected = distance_transform(inside, side="both", impl=impl)
    values: list[float]
    if dtype == torch.bool:
        values = [True]
    elif dtype.is_floating_point:
        tiny = torch.finfo(dtype).smallest_normal
        values = [1.0, -0.25, tiny, -tiny, torch.finfo(dtype).max, torch.inf, -torch.inf, torch.nan]
        values.append(tiny * torch.finfo(dtype).eps)  # the smallest of all
    else:
        limits = torch.iinfo(dtype)
        values = [1, limits.max, limits.min or 2, 2 ** (limits.bits - 2)]
    for value in values:
        mask = torch.full(inside.shape, value, dtype=dtype)
        if dtype in UNSIGNED:  # which torch cannot fill
            mask.view(UNSIGNED[dtype])[~inside] = 0
        else:
            mask[~inside] = -0.0 if dtype.is_floating_point else 0
        assert torch.equal(distance_transform(mask, side="both", impl=impl), expected), value


@needs_native
@pytest.mark.parametrize("kind", ["one", "noise", "sparse", "hole"])
@pytest.mark.parametrize("side", ["inside", "signed"])
def test_long_lines(kind: str, side: str) -> None:
    """Past what 16 bits count, along every axis."""
    line = random_mask((40_000,), kind, seed=5)
    expected = by_scipy(line[None, None], [1.0], side)
    for shape in [(40_000,), (40_000, 1), (1, 40_000, 1)]:
        found = distance_transform(line.view(1, 1, *shape), side=side, impl="native")
        assert_distances(found.view(1, 1, -1), expected)
    wide = line[:, None].expand(-1, 17).clone()  # the long axis is not that of the rows
    wide[:20_000, 5] = False
    found = distance_transform(wide[None, None], side=side, impl="native")
    assert_distances(found, by_scipy(wide[None, None], [1.0, 1.0], side))


@needs_native
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(cpu_capability: ModuleType, level: str, kind: str) -> None:
    best = cpu_capability.cpu_capability()
    for size in [(83,), (31, 40), (9, 33, 19), (12, 16, 70)]:
        mask = masks(*size, kind=kind)
        spacing = [1.3, 0.6, 0.9][: len(size)]
        cpu_capability.set_cpu_capability(best)
        expected = {side: distance_transform(mask, spacing, side=side) for side in SIDES}
        try:
            cpu_capability.set_cpu_capability(level)
        except RuntimeError as error:
            pytest.skip(str(error))
        for side in SIDES:
            found = distance_transform(mask, spacing, side=side)
            assert torch.equal(found, expected[side])
            assert_distances(found, by_scipy(mask, spacing, side))


@needs_native
@pytest.mark.parametrize(
    "size", [(5000,), (130, 141), (2, 300, 301), (61, 40, 37), (60, 61, 5)], ids=str
)
def test_bits_do_not_depend_on_threads_or_on_the_run(size: tuple[int, ...]) -> None:
    before = torch.get_num_threads()
    for kind in ("noise", "sparse", "ball"):
        mask = masks(*size, kind=kind)
        expected = distance_transform(mask, 1.1, side="signed", impl="native")
        try:
            for threads in (1, 2, 3, 7):
                torch.set_num_threads(threads)
                for _ in range(2):
                    found = distance_transform(mask, 1.1, side="signed", impl="native")
                    assert torch.equal(found, expected), threads
        finally:
            torch.set_num_threads(before)


@needs_native
@pytest.mark.parametrize("kind", KINDS)
def test_every_output_is_written(kind: str) -> None:
    """In deterministic mode torch fills fresh memory with NaN, the kernels' scratch included."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        for size in [(1,), (70,), (17, 33), (9, 17, 33), (40, 5, 3)]:
            for side in SIDES:
                found = distance_transform(masks(*size, kind=kind), side=side, impl="native")
                assert not found.isnan().any()
    finally:
        torch.use_deterministic_algorithms(False)


@needs_native
@pytest.mark.parametrize("side", ["inside", "both"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64], ids=str)
@pytest.mark.parametrize("size", [(64, 64, 64), (256, 256), (12, 160, 160), (128, 128, 8)], ids=str)
def test_memory(size: tuple[int, ...], dtype: torch.dtype, side: str) -> None:
    """Scratch memory is at most the size of the output, whatever the mask's layout."""
    for layout in ("sliced", "channels_last", "transposed"):
        mask = lay_out((torch.rand(2, 3, *size) < 0.5).to(dtype), layout)
        output = 4 * mask.numel()

        def call(mask: Tensor = mask) -> Tensor:
            return distance_transform(mask, side=side, impl="native")

        assert peak_allocation(call) <= 2 * output


@by_impl
def test_offsets_past_2_to_the_31(impl: str) -> None:
    """Strides beyond 2^31 elements, over memory of which only the used pages exist."""
    far = 2**31 + 5
    mask = random_mask((2, 3, 5), "noise")[None]
    storage = torch.empty(2 * far + 30, dtype=torch.uint8)
    for shape, strides in (((1, 2, 3, 5), (far, far, 5, 1)), ((1, 1, 2, 3, 5), (1, 1, far, 5, 1))):
        view = storage.as_strided(shape, strides)
        view.copy_(mask.view(shape))
        expected = distance_transform(mask.view(shape), side="both", impl=impl)
        assert torch.equal(distance_transform(view, side="both", impl=impl), expected)


@by_impl
def test_no_voxels_and_no_masks(impl: str) -> None:
    for shape in [(0, 3, 4), (2, 0, 4), (2, 3, 0), (2, 3, 4, 0, 5), (2, 3, 0, 4)]:
        found = distance_transform(torch.ones(shape), side="both", impl=impl)
        assert found.shape == shape
        assert found.dtype == torch.float32


@begins_in("test")
@pytest.mark.parametrize("impl", [impl for impl in IMPLS if impl != "reference"])
@pytest.mark.parametrize("layout", ["sliced", "channels_last", "transposed"])
def test_opcheck(impl: str, layout: str) -> None:
    mask = lay_out(masks(3, 4, 5), layout)
    operator = torch.ops.segloss_fast.distance_transform
    for side in SIDES:
        torch.library.opcheck(operator, (mask, [1.0, 0.5, 2.0], side, False, impl))
    torch.library.opcheck(operator, (mask[0, :, :1], [0.5, 2.0], "both", True, impl))


@pytest.mark.torch_compile
@by_impl
@pytest.mark.parametrize("backend", few(["aot_eager", "inductor"], test=1))
def test_compiles_into_one_graph(impl: str, backend: str) -> None:
    if (backend, impl) == ("inductor", "reference"):
        pytest.skip("a graph of torch's operators, which are not ours to test")
    p = torch.rand(1, 2, 5, 6, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def loss(p: Tensor) -> Tensor:
        field = distance_transform(p > 0.5, (2.0, 1.0, 0.5), side="both", impl=impl)
        return (p.square() * field).mean()

    value = loss(p)
    (grad,) = torch.autograd.grad(value, p)
    compiled_value = torch.compile(loss, fullgraph=True, backend=backend)(p)
    (compiled_grad,) = torch.autograd.grad(compiled_value, p)
    torch._dynamo.reset()
    torch.testing.assert_close(compiled_value, value)
    torch.testing.assert_close(compiled_grad, grad)


@pytest.mark.torch_compile
@needs_native
def test_sizes_may_change_under_compile() -> None:
    compiled = torch.compile(
        lambda mask: distance_transform(mask, 2, impl="native"), fullgraph=True, dynamic=True
    )
    for size in [(5, 6), (7, 8), (9, 3)]:
        mask = masks(*size)
        assert torch.equal(compiled(mask), distance_transform(mask, 2, impl="native"))
    torch._dynamo.reset()
