"""The steps of lovasz on every machine: counts, bins, tables and sorts against the reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from segloss_fast import lovasz_counts
from segloss_fast._check import FLOATING
from segloss_fast.ops.lovasz import reference
from segloss_fast.ops.lovasz.bins import number as bin_count
from segloss_fast.ops.lovasz.options import ACTIVATIONS
from tests.machines import Machine, on, sized
from tests.ops import lovasz_definition as definition
from tests.ops.lovasz_cases import (
    METHODS,
    backward,
    best_dtype,
    by_activation,
    check,
    count,
    has,
    histogram,
    options_of,
    require,
    solve,
)
from tests.ops.lovasz_samples import KINDS, LAYOUT, foreground_of, sample
from tests.ops.region_sums_cases import LAYOUTS, lay_out, strided
from tests.suite.tiers import begins_in
from tests.suite.tracing import followed

# With every kind of target, or with labels alone.
NUMBERS = [
    *((classes, kind) for classes in (1, 2, 4, 14, 70, 200) for kind in KINDS[:3]),
    *((classes, "labels") for classes in (3, 8, 32, 105)),
    pytest.param((130, "labels"), marks=followed),
    *((130, kind) for kind in KINDS[1:3]),
]
# Every size with classes in registers; more classes have smaller tiles, and take longer.
BLOCKS = [
    *((2, size) for size in ((1,), (127,), (128,), (2051,), (3, 1, 17))),
    *((20, size) for size in ((1,), (127,), (515,), (3, 1, 17))),
    *((140, size) for size in ((33,), (3, 1, 17))),
]


@by_activation
@pytest.mark.parametrize("per_image", [False, True])
@sized("bins", [None, 4096, 1152], interpreted=[None], shim=[None])
def test_counts(machine: Machine, bins: int | None, activation: str, per_image: bool) -> None:
    x, target, ignored = sample((2, 3, 9, 8), "ignore", activation, best_dtype(machine))
    t, counted = foreground_of(target, 3, ignored)
    octaves, bits = {None: LAYOUT, 4096: (16, 6), 1152: (9, 5)}[bins]
    found = lovasz_counts(
        machine.place(x),
        machine.place(target),
        activation=activation,
        bins=bins,
        per_image=per_image,
        ignore_index=ignored,
        impl=machine.asked,
    ).cpu()
    assert found.dtype == torch.int64
    assert found.shape == (2 if per_image else 1, 3, 2, 4 * octaves * 2**bits)
    m = definition.errors(x.double(), t, activation)
    for i, c, errors, foreground, _ in definition.images(m, t, counted, per_image):
        place = definition.bin_of(errors, 1 - errors, octaves, bits, activation)
        for k in (0, 1):
            number = torch.bincount(place[foreground == k], minlength=found.shape[-1])
            assert torch.equal(found[i, c, k], number)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_errors_of_one_half_are_counted_alike(machine: Machine, activation: str) -> None:
    """As a network has them before it has learnt anything: counts of ranks must add up."""
    x, target = torch.zeros(1, 2, 9), torch.arange(9)[None] % 2
    o = options_of(activation)
    found = count(machine, x, target, o)[0][0].cpu()
    assert torch.equal(found, reference.count(x, target, o)[0][0])
    half = torch.tensor([0.5]).double()
    place = definition.bin_of(half, half, *LAYOUT, activation)
    assert found[0, 0, :, int(place)].tolist() == [4, 5]


@by_activation
def test_counts_of_chunks_add_up(machine: Machine, activation: str) -> None:
    x, target, _ = sample((2, 3, 9, 8), "labels", activation, torch.float32)

    def call(of: slice, **options: Any) -> Tensor:  # noqa: ANN401
        tensors = machine.place(x[:, :, of]), machine.place(target[:, of])
        return lovasz_counts(*tensors, activation=activation, impl=machine.asked, **options)

    parts, whole = call(slice(4)) + call(slice(4, None)), slice(None)
    assert torch.equal(parts, call(whole))
    assert torch.equal(call(whole, per_image=True).sum(0, keepdim=True), parts)


@by_activation
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@sized("dtype", FLOATING, interpreted=[torch.float32], shim=[torch.float32, torch.float64])
def test_equals_the_reference(
    machine: Machine, dtype: torch.dtype, activation: str, kind: str, per_image: bool
) -> None:
    require(machine, "histogram", dtype)
    of_shim: tuple[int, ...] = (5, 7, 9) if dtype == torch.float64 else (4, 6, 8)
    size = machine.pick((7, 11, 13), interpreted=(3, 7, 11), shim=of_shim, cuda=(12, 16, 20))
    x, target, ignored = sample((2, 4, *size), kind, activation, dtype)
    check(machine, x, target, options_of(activation, per_image=per_image, ignore_index=ignored))


@on("reference", "native", "interpreted", "cuda")
@sized("number", [case for case in NUMBERS if case != (200, "labels")], interpreted=NUMBERS)
def test_number_of_classes(machine: Machine, number: tuple[int, str]) -> None:
    classes, kind = number
    activation = "sigmoid" if classes == 1 else "softmax"
    x, target, ignored = sample((2, classes, 3, 7), kind, activation, best_dtype(machine))
    check(machine, x, target, options_of(activation, bits=5, ignore_index=ignored))


@on("native", "interpreted", "shim", "cuda")
@sized(
    "classes",
    [2, 5],
    interpreted=[3],
    shim=[1, 2, 4, 5, 14, 15, 33],
    cuda=[1, 2, 4, 8, 14, 15, 33, 105],
)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_classes_and_dtypes(machine: Machine, classes: int, dtype: torch.dtype) -> None:
    require(machine, "histogram", dtype)
    for activation in ACTIVATIONS:
        if classes == 1 and activation == "softmax":
            continue
        size: tuple[int, ...] = (100,) if activation == "softmax" else (7, 9)
        size = machine.pick((9, 16, 16), interpreted=(8, 9), shim=size)
        x, target, ignored = sample((2, classes, *size), "ignore", activation, dtype)
        check(machine, x, target, options_of(activation, ignore_index=ignored))


@on("interpreted", "shim", "cuda")
@pytest.mark.parametrize("activation", ["sigmoid", "hinge"])
@sized("classes", [1, 17, 40], shim=[17])
def test_independent_classes_in_blocks(machine: Machine, classes: int, activation: str) -> None:
    x, target, _ = sample((2, classes, 2, 5), "labels", activation, torch.float32)
    check(machine, x, target, options_of(activation, bits=5))


@pytest.mark.parametrize("activation", ["softmax", "hinge"])
@pytest.mark.parametrize("layout", [(9, 1), (9, 6), (13, 4), (16, 3), (16, 8), (11, 10)], ids=str)
def test_numbers_of_bins(machine: Machine, layout: tuple[int, int], activation: str) -> None:
    octaves, bits = layout
    o = options_of(activation, octaves, bits)
    # In narrow bins float32 errors are not far from any edge.
    wide = octaves, min(bits, 8 if machine.impl != "triton" else 7)
    x, target, _ = sample((1, 2, 5, 9), "labels", activation, torch.float32, layout=wide)
    if bits <= wide[1]:
        check(machine, x, target, o, METHODS[1:])
        return
    fold = 2 ** (bits - wide[1])
    counts = histogram(machine, x, target, o).counts
    # Several bins become one, but for the hinge's bin 0, which is for no error.
    ends = (fold - 1, 1) if activation == "hinge" else (0, 0)
    found = torch.nn.functional.pad(counts[0], ends).unflatten(-1, (-1, fold)).sum(-1)
    coarse = count(machine, x, target, replace(o, bits=wide[1]))[0][0].cpu()
    assert torch.equal(found[..., : coarse.shape[-1]], coarse)
    assert not found[..., coarse.shape[-1] :].any()


@by_activation
def test_without_cross_entropy(machine: Machine, activation: str) -> None:
    x, target, _ = sample((2, 3, 4, 9), "labels", activation, torch.float32)
    assert not check(machine, x, target, options_of(activation, cross_entropy=False)).rows.any()


@sized("block", BLOCKS[:-2], interpreted=BLOCKS, shim=[BLOCKS[3], BLOCKS[6]])
def test_blocks_chunks_and_replicas(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, block: tuple[int, tuple[int, ...]]
) -> None:
    """Few programs and short blocks, so that small volumes have several of everything."""
    classes, size = block
    x, target, _ = sample((2, classes, *size), "labels", "softmax", torch.float32)
    bits = LAYOUT[1] if classes < 100 else 5
    o = options_of(bits=bits, per_image=len(size) == 1)
    alone = histogram(machine, x, target, o)
    machine.shrink_tiles(monkeypatch)
    machine.set_multiprocessors(1)
    found = check(machine, x, target, o)
    assert torch.equal(found.counts, alone.counts)
    assert torch.equal(found.grad, alone.grad)


@by_activation
@pytest.mark.parametrize("layout", [*LAYOUTS[:-1], "unaligned"])
@sized("classes", [4], interpreted=[3, 40], shim=[3, 18], cuda=[3, 18])
@sized("dtype", [torch.float32], shim=[torch.float32, torch.float16], interpreted=[torch.float32])
def test_layouts(
    machine: Machine, dtype: torch.dtype, classes: int, layout: str, activation: str
) -> None:
    wide = classes == 40 and layout[0] not in "ct"
    if machine.family == "interpreted" and (activation != "softmax" or wide):
        pytest.skip("slow: the softmax alone, and not all with wide classes")
    size = machine.pick((5, 8, 6), interpreted=(2, 3, 4))
    x, target, _ = sample((2, classes, *size), "labels", activation, dtype)
    labels, moved = lay_out(target, layout), lay_out(x, layout)
    # What was expanded is other values.
    x, target = moved.contiguous(), labels.contiguous()
    o = options_of(activation)
    for method in METHODS:
        if not has(machine, method):
            continue
        plain, found = (solve(machine, method, *of, o) for of in ((x, target), (moved, labels)))
        for name, value in found.tensors.items():
            if value.dtype == torch.int64 or name == "g" or machine.impl == "reference":
                assert torch.equal(value, plain.tensors[name]), name
            else:
                torch.testing.assert_close(value, plain.tensors[name], rtol=1e-6, atol=1e-9)
        if machine.family not in ("native", "reference"):
            assert torch.equal(found.grad, plain.grad)


@pytest.mark.parametrize("name", strided())
def test_layouts_together(machine: Machine, name: str) -> None:
    x, target, _ = strided()[name]
    found = histogram(machine, x, target, options_of())
    plain = histogram(machine, x.contiguous(), target.contiguous(), options_of())
    assert torch.equal(found.counts, plain.counts)
    torch.testing.assert_close(found.rows, plain.rows, rtol=1e-6, atol=0)
    assert torch.equal(found.grad, plain.grad)


@by_activation
@on("native")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_widened(machine: Machine, activation: str, dtype: torch.dtype) -> None:
    x, target, _ = sample((2, 3, 501), "labels", activation, dtype)
    o = options_of(activation)
    for method in METHODS:
        half, single = (solve(machine, method, y, target, o).tensors for y in (x, x.float()))
        for name, value in half.items():
            if name == "grad":
                assert value.dtype == dtype
                assert torch.equal(value, single[name].to(dtype))
            elif name == "rows":  # summed in blocks of another size
                torch.testing.assert_close(value, single[name], rtol=1e-6, atol=0)
            else:
                assert torch.equal(value, single[name]), name


@begins_in("test")
@by_activation
@on("native", sets=True)
@pytest.mark.parametrize("shape", [(2, 5, 601), (1, 33, 19, 31), (3, 1, 1), (1, 2, 9001)], ids=str)
def test_every_instruction_set(machine: Machine, activation: str, shape: tuple[int, ...]) -> None:
    if activation == "softmax" and shape[1] == 1:
        pytest.skip("a softmax needs two classes")
    for dtype in FLOATING:
        x, target, ignored = sample(shape, "ignore", activation, dtype)
        check(machine, x, target, options_of(activation, ignore_index=ignored))


@on("native", "interpreted", "shim", "cuda")
@pytest.mark.parametrize("classes", [3, 20])
@by_activation
def test_an_entry_of_the_table_is_rounded_times_the_gradient(
    machine: Machine, activation: str, classes: int
) -> None:
    """And then looked up, or looked up and then multiplied: the same bits."""
    x, target, _ = sample((2, classes, 3, 17), "labels", activation, best_dtype(machine))
    o = options_of(activation, per_image=True)
    generator = torch.Generator().manual_seed(5)
    shape = (2, classes, 2, bin_count(o.octaves, o.bits))
    table = machine.place(torch.randn(shape, dtype=x.dtype, generator=generator))
    incoming = machine.place(torch.randn(shape[:2], dtype=torch.float64, generator=generator))
    found = backward(machine, table, None, x, target, o, incoming)
    scaled = table * incoming.to(table.dtype)[:, :, None, None]
    assert torch.equal(found, backward(machine, scaled, None, x, target, o))
    assert found.any()
