"""The histogram of lovasz, on every machine: its bins, its error bound, and what it adds up to."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from segloss_fast.ops.lovasz import bins, reference
from segloss_fast.ops.lovasz.increments import harmonic, increments
from tests.machines import Machine, on, sized
from tests.ops import lovasz_definition as definition
from tests.ops.lovasz_cases import (
    best_dtype,
    by_activation,
    factors,
    histogram,
    options_of,
    scan,
)
from tests.ops.lovasz_samples import LAYOUT

of_the_reference = pytest.mark.of("reference")  # which has the definitions of the bins
tabled = on("native", "shim", "cuda")  # others take the reference's tables
CASES = 56  # of each kind and activation
LOGITS = ("random", "one_bin", "edges", "saturated")


def logits(kind: str, voxels: int, generator: torch.Generator) -> Tensor:
    """Return one logit per voxel of every case, ``[CASES, voxels]``, float64."""
    shape = (CASES, voxels)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "one_bin":  # all errors of a case in one or two bins, or all the same
        spread = 10 ** torch.randint(-9, -3, (CASES, 1), generator=generator).double()
        return 3 * x[:, :1] + spread * x
    if kind == "edges":  # on the edges of bins: as near as float64 can say
        bounds = definition.edges(*LAYOUT, "sigmoid")
        e = bounds[torch.randint(1, bounds.numel() - 1, shape, generator=generator)]
        return torch.where(x > 0, 1, -1) * torch.log((1 - e) / e)
    if kind == "saturated":
        return 30 * x
    return 3 * x


@by_activation
@pytest.mark.parametrize("foreground", ["some", "one", "all"])
@sized("kind", LOGITS, interpreted=[], shim=["edges"])
def test_loss_is_within_a_bin_of_the_exact_one(
    machine: Machine, kind: str, activation: str, foreground: str
) -> None:
    generator = torch.Generator().manual_seed(5)
    voxels = int(torch.randint(2, 120, (), generator=generator))
    x = logits(kind, voxels, generator)
    target = torch.rand(x.shape, generator=generator) < torch.rand(CASES, 1, generator=generator)
    if foreground != "some":
        target = torch.full_like(target, foreground == "all")
        target[:, 0] = True
    x = torch.stack([torch.zeros_like(x), x], 1) if activation == "softmax" else x[:, None]
    x = x.to(best_dtype(machine))
    o = options_of(activation, per_image=True, cross_entropy=False)
    found = histogram(machine, x, target.long(), o).loss[:, -1]
    x, single = x.double(), 0.0 if best_dtype(machine) == torch.float64 else 1e-6
    t = target[:, None]
    m = definition.errors(x, torch.cat([~t, t], 1) if activation == "softmax" else t, activation)
    for case in range(CASES):
        errors = m[case, -1]
        exact = (errors * definition.published(errors, target[case])).sum().item()
        bound = definition.widest(*LAYOUT, activation, errors)
        assert abs(found[case].item() - exact) <= bound + single * (1 + exact) + 1e-12, case


def test_all_voxels_in_one_bin_share(machine: Machine) -> None:
    x = 0.251 + 1e-7 * torch.randn(1, 1, 50, dtype=torch.float64)  # m far from an edge
    target = torch.zeros(1, 50, dtype=torch.int64)
    target[:, :7] = 1
    t = target[0] == 1
    o, x = options_of("hinge", cross_entropy=False), torch.where(t, x, -x).to(best_dtype(machine))
    found = histogram(machine, x, target, o)
    weight, _ = factors(found.loss)
    true = (
        weight.item() * torch.where(t, -1.0, 1.0).double() * definition.grouped(torch.zeros(50), t)
    )
    close = 1e-12 if x.dtype == torch.float64 else 3e-7
    torch.testing.assert_close(found.grad[0, 0].double(), true, rtol=close, atol=0)


def place_among_equals(values: Tensor) -> Tensor:
    """Return how many of the values before it equal each."""
    order = values.argsort(stable=True)
    _, runs = values[order].unique_consecutive(return_counts=True)
    first = (runs.cumsum(0) - runs).repeat_interleave(runs)
    return torch.empty_like(values).scatter_(0, order, torch.arange(len(values)) - first)


@pytest.mark.parametrize("octaves", [9, 12, 16])
@pytest.mark.parametrize("bits", [1, 7, 9])
@by_activation
@of_the_reference
def test_bins_are_those_of_the_description(activation: str, octaves: int, bits: int) -> None:
    generator = torch.Generator().manual_seed(2)
    o, size = options_of(activation, octaves, bits), bins.number(octaves, bits)
    bounds = definition.edges(octaves, bits, activation)
    assert bounds.numel() == size + 1
    middles = (bounds[1:] + bounds[:-1]) / 2
    few = torch.rand(500, generator=generator, dtype=torch.float64)
    m = torch.cat([middles, bounds, 1 / 2 + (few - 1 / 2) / 2**20, 1 + few, few, few**4])
    m = torch.cat([m, torch.nextafter(m, -torch.ones(())), torch.nextafter(m, 2 * torch.ones(()))])
    m = m.float().double() if activation == "hinge" else m  # as hinge errors are counted
    m = m[(m >= 0) & (m < (2**16 if activation == "hinge" else 1.0))]
    found, offset, flagged = bins.locate(m, 1 - m, o)
    assert not flagged.any()
    assert torch.equal(found, definition.bin_of(m, 1 - m, octaves, bits, activation))
    assert ((offset >= 0) & (offset < 2**16)).all()
    counted = int((middles < 2**16).sum())
    assert torch.equal(found[:counted], torch.arange(counted))
    # The offset says where in the bin: the sum of one voxel's error is the error, to 2^-16 of it,
    # and to the rounding of a distance to float32.
    row = place_among_equals(found)  # a voxel of each bin at a time
    numbers = torch.zeros(2, int(row.max()) + 1, size, dtype=torch.float64)
    numbers[0, row, found], numbers[1, row, found] = 1, offset.to(torch.float64)
    sums = bins.error_sums(numbers[0], numbers[1], o)[row, found]
    distance = (m - 1).abs()
    distance = distance if activation == "hinge" else torch.minimum(m, distance + 1e-9)
    tolerance = bounds.diff()[found] * 2.0**-16 + 2.0**-24 * distance
    assert ((sums - m).abs() <= tolerance).all()
    if activation == "hinge":
        assert torch.equal(found == 0, m == 0)
        assert sums[m == 0].eq(0).all()


@of_the_reference
def test_layouts() -> None:
    sizes = set()
    for bits in bins.BITS:
        for octaves in bins.OCTAVES:
            size = bins.number(octaves, bits)
            assert bins.layout(size) == (octaves, bits)
            sizes.add(size)
    assert len(sizes) == len(bins.BITS) * len(bins.OCTAVES)
    assert bins.layout(None) == bins.DEFAULT
    assert bins.layout(8192) == (16, 7)
    assert bins.layout(6144) == (12, 7)
    assert bins.layout(bins.number(*bins.DEFAULT)) == bins.DEFAULT
    for size in (0, 1, 18, 36, 100, 1000, 4097, 2**18, -4096):
        if size not in sizes:
            with pytest.raises(ValueError, match=f"bins must be .* got {size}"):
                bins.layout(size)
    for value in ("4096", 4096.0, True):
        with pytest.raises(TypeError, match="bins must be an int or None"):
            bins.layout(value)  # type: ignore[arg-type]


@of_the_reference
@pytest.mark.parametrize("first", [1, 2, 15, 16, 17, 1000, 10**7, 2**40])
def test_harmonic_sums(first: int) -> None:
    for number in (0, 1, 2, 15, 16, 17, 40, 300):
        true = float(sum(Fraction(1, first + k) for k in range(number)))
        a, n = (torch.tensor(float(v), dtype=torch.float64) for v in (first, number))
        assert math.isclose(harmonic(a, n).item(), true, rel_tol=3e-15)
    n = torch.tensor(1e9, dtype=torch.float64)
    ends = torch.digamma(first + n) - torch.digamma(torch.tensor(float(first), dtype=n.dtype))
    if first < 10**6:  # above, the difference cancels
        assert math.isclose(harmonic(torch.tensor(float(first)).double(), n), ends, rel_tol=1e-13)


@of_the_reference
def test_increments_of_many_groups() -> None:
    generator = torch.Generator().manual_seed(3)
    for empty in (False, True):
        n_f = torch.randint(0, 4, (40,), generator=generator) * (not empty)
        n_b = torch.randint(0, 60, (40,), generator=generator)
        g_f, g_b = increments(n_f.double(), n_b.double())
        groups = torch.arange(40).flip(0)  # higher come first
        t = torch.cat([torch.ones(int(n_f.sum())), torch.zeros(int(n_b.sum()))]).bool()
        group = torch.cat([groups.repeat_interleave(n_f), groups.repeat_interleave(n_b)])
        true = definition.grouped(group, t)
        mine = torch.cat([g_f.repeat_interleave(n_f), g_b.repeat_interleave(n_b)])
        torch.testing.assert_close(mine, true, rtol=1e-11, atol=0)
        assert math.isclose(mine.sum().item(), 1, rel_tol=1e-12)


@tabled
@by_activation
@pytest.mark.parametrize("rare", [False, True])
def test_scan_of_large_counts(machine: Machine, activation: str, rare: bool) -> None:
    """Counts of 10^9 voxels; every implementation agrees with the reference."""
    generator = torch.Generator().manual_seed(4)
    size = bins.number(*LAYOUT)
    number = torch.randint(0, 10**6, (2, 3, 2, size), generator=generator)
    number *= torch.rand(number.shape, generator=generator) < 0.7
    number[:, :, 1] //= 10**5 if rare else 10
    number[0, 1, 1] = 0
    number[1, 2] = 0
    counts = torch.stack([number, number * 30000])
    rows = torch.zeros(2, 2, 3, dtype=torch.float64)
    rows[0, 1, 0] = 2
    for double in (False, True):
        o, dtype = options_of(activation), torch.float64 if double else torch.float32
        tensors = machine.place(counts), machine.place(rows)
        loss, table = (tensor.cpu() for tensor in scan(machine, *tensors, o, double=double))
        true_loss, true = reference.scan(counts, rows, o, dtype)
        assert table.dtype == dtype
        tolerance = 1e-9 if double else 1e-6
        torch.testing.assert_close(loss, true_loss, rtol=1e-12, atol=0, equal_nan=True)
        used = (number > 0) | true.isnan()
        if activation == "hinge":
            used[..., 0] = False
        torch.testing.assert_close(table[used], true[used], rtol=tolerance, atol=0, equal_nan=True)
        assert loss[1, 0].isnan()
        assert loss[1, 2] == 0


@tabled
@by_activation
@sized("seed", [0], shim=[0, 1])
def test_scan_of_any_counts(machine: Machine, seed: int, activation: str) -> None:
    """Counts of all sizes, as a network leaves them: with empty bins, and without foreground."""
    machine.set_order(seed)
    generator = torch.Generator().manual_seed(seed)
    for octaves, bits in ((9, 1), (12, 2), (16, 5)):
        o = options_of(activation, octaves, bits, per_image=True)
        shape = (2, 3, 2, 4 * octaves << bits)
        scale = 10 ** (9 * torch.rand(shape, generator=generator, dtype=torch.float64))
        number = (scale * (torch.rand(shape, generator=generator) < 0.5)).long()
        number[0, 0, 1] = 0
        number[1, 1] = 0
        number[1, 2, :, 4:] = 0
        part = torch.rand(shape, generator=generator, dtype=torch.float64)
        counts = torch.stack([number, (number * part * 65535).long()])
        rows = torch.zeros(2, 2, 3, dtype=torch.float64)
        rows[0, 0, 2] = 3
        tensors = machine.place(counts), machine.place(rows)
        ours = [tensor.cpu() for tensor in scan(machine, *tensors, o)]
        loss, table = reference.scan(counts, rows, o, torch.float64)
        torch.testing.assert_close(ours[0], loss, rtol=1e-12, atol=0, equal_nan=True)
        # g_b has n_f (1 / U - g_f) / n_b, a difference whose rounding is one of g_f.
        table = table.nan_to_num(-1)
        rounding = number[:, :, 1] / number[:, :, 0].clamp_min(1) * table[:, :, 1]
        bound = 1e-12 * table.abs()
        bound[:, :, 0] += 4 * torch.finfo(torch.float64).eps * rounding.abs()
        right = (ours[1].nan_to_num(-1) - table).abs() <= bound
        if machine.family == "native":  # which leaves out bins without voxels, and without errors
            right |= number == 0
            right[..., 0] |= activation == "hinge"
        assert right.all()
        narrow = scan(machine, *tensors, o, double=False)[1].cpu()
        assert torch.equal(narrow.nan_to_num(-1), ours[1].float().nan_to_num(-1))
