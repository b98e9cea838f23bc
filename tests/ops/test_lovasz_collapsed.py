"""Errors that are equal or nearly so, in lovasz on every machine: in its bins and in its sorts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segloss_fast.ops.lovasz import reference
from segloss_fast.ops.lovasz.options import ACTIVATIONS
from tests.helpers import relative_l2
from tests.machines import Machine, on, sized
from tests.ops.lovasz_cases import (
    backward,
    by_activation,
    check,
    count,
    options_of,
    require,
    scan,
    sort,
)
from tests.ops.lovasz_collapsed import (
    SHARES,
    SPREADS,
    binned_hinge,
    collapsed,
    exact,
    hinge_logits,
    nearly_kept,
    place,
)
from tests.ops.lovasz_samples import sample

by_bits = pytest.mark.parametrize("bits", [1, 7, 10])
TILE = 2048  # voxels that a block of the CUDA kernels takes at once


@on(sets=True)
@by_activation
@pytest.mark.parametrize("spread", SPREADS)
@sized("voxels", [20000], interpreted=[3000], shim=[5000])
def test_predictions_collapsed_to_one_value(
    machine: Machine, voxels: int, activation: str, spread: float
) -> None:
    """The histogram tells their errors apart: its loss and gradient are those of a sort."""
    for share in machine.pick(SHARES, interpreted=SHARES[:1], shim=SHARES[:1]):
        x, target = collapsed(activation, spread, share, voxels)
        o = options_of(activation, cross_entropy=False)
        counts, rows, _ = count(machine, x, target, o)
        loss, table = scan(machine, counts, rows, o, double=False)
        grad = backward(machine, table, None, x, target, o)
        true, true_grad = exact(x, target, activation)
        assert abs(loss.sum().item() / true.sum().item() - 1) < 2e-6
        # Where few voxels are foreground, those of the few largest errors matter most.
        bound = 1.2e-2 if share < 0.1 else (2e-3 if spread >= 1e-3 and voxels > 10000 else 5e-3)
        assert relative_l2(grad.cpu(), true_grad) < bound, share


def test_many_classes_of_one_probability(machine: Machine) -> None:
    """Foreground has errors near 1 - 1 / C, background near 1 / C: no bin has both."""
    generator = torch.Generator().manual_seed(0)
    for classes in machine.pick((3, 4, 14), interpreted=(3,), shim=(3, 14)):
        voxels = machine.pick(5000, interpreted=500, shim=500)
        x = 1e-3 * torch.randn((1, classes, voxels), generator=generator)
        target = torch.randint(0, classes, (1, voxels), generator=generator)
        o = options_of(cross_entropy=False)
        counts, rows, _ = count(machine, x, target, o)
        _, table = scan(machine, counts, rows, o, double=False)
        grad = backward(machine, table, None, x, target, o).cpu()
        assert relative_l2(grad, exact(x, target, "softmax")[1]) < 1e-5


@on(sets=True)
@by_bits
@sized("distance", [1e-5, 1e-4, 1e-3], interpreted=[1e-3], shim=[1e-3])
def test_small_hinge_errors_count_as_what_they_are(
    machine: Machine, distance: float, bits: int
) -> None:
    for share in machine.pick(SHARES, interpreted=SHARES[:1], shim=SHARES[:1]):
        x, target = nearly_kept(distance, share, machine.pick(20000, interpreted=3000, shim=2000))
        o = options_of("hinge", 12, bits, cross_entropy=False)
        for dtype in (torch.float32, torch.float64):
            if dtype not in machine.dtypes or (machine.family == "shim" and dtype != x.dtype):
                continue
            counts, rows, _ = count(machine, x.to(dtype), target, o)
            loss, table = scan(machine, counts, rows, o, double=dtype == torch.float64)
            true, true_grad = binned_hinge(x, target, 12, bits)
            # Half of 2^-8 of a bin's width, to which CUDA C++ knows an error.
            coarse = machine.asked == "native" and machine.family != "native"
            known = 2.0 ** -(2 + bits) * 2.0**-9 if coarse else place(bits)
            assert abs(loss.item() - true.item()) < known, share
            grad = backward(machine, table, None, x.to(dtype), target, o).cpu()
            assert relative_l2(grad, true_grad) < 1e-6, share


@on(sets=True)
@by_bits
@pytest.mark.parametrize("octaves", [9, 12, 16])
def test_hinge_errors_have_one_bin_on_every_machine(
    machine: Machine, octaves: int, bits: int
) -> None:
    x, target = hinge_logits()
    o = options_of("hinge", octaves, bits)
    expected, true_rows, _ = reference.count(x, target, o)
    assert (expected[0, 0, 0] > 0).sum() >= min(60, 20 << bits)
    counts, rows, _ = count(machine, x, target, o)
    exactly = slice(None) if machine.family in ("reference", "native", "interpreted") else slice(1)
    assert torch.equal(counts[exactly].cpu(), expected[exactly])
    assert torch.equal(rows[0].cpu(), true_rows[0].double())


def crowded(kind: str, voxels: int) -> Tensor:
    """Return logits ``[1, 3, N]`` whose errors crowd in few bins, away from their edges."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([[0.1, -0.7, 0.4], [2.3, 0.2, -1.1], [-20.0, 31.0, 0.5]])
    if kind == "one":
        choice = torch.zeros(voxels, dtype=torch.int64)
    elif kind == "two":
        choice = torch.randint(0, 2, (voxels,), generator=generator)
    elif kind == "nearly":  # all but a few in the first
        choice = (torch.rand(voxels, generator=generator) < 0.02).long()
    else:  # the smallest and the largest errors
        choice = torch.full((voxels,), 2)
    return logits[choice].T[None].contiguous()


@on("reference", "native", "shim", "cuda")
@sized("seed", [0], shim=[0, 1])
@pytest.mark.parametrize("kind", ["one", "two", "nearly", "saturated"])
def test_crowded_bins(machine: Machine, seed: int, kind: str) -> None:
    """Counters that pass 2048 several times in a block, in both orders of threads."""
    machine.set_order(seed)
    machine.set_multiprocessors(1)
    x = crowded(kind, machine.pick(4 * TILE + 100, cuda=1_000_000))  # one block
    target = torch.arange(x.shape[2])[None] % 7 % 3
    for activation in ACTIVATIONS:
        check(machine, x, target, options_of(activation, 9, 3), ("histogram",))


@on("reference", "native", "interpreted")  # CUDA C++ knows offsets to 8 bits
@pytest.mark.parametrize("logit", [0.0, 20.0, 200.0, -200.0, -9.0, 2.0**-126])
@by_activation
def test_all_errors_in_one_bin(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, activation: str, logit: float
) -> None:
    """Blocks as long as they come, so that what is kept in registers is full."""
    if machine.family == "interpreted":
        from segloss_fast.ops.lovasz import triton_plan

        monkeypatch.setattr(triton_plan, "MAX_PROGRAMS", 1)
    x = torch.zeros(1, 2, machine.pick(10000, shim=2 * TILE + 9))
    x[:, 0] = logit
    target = torch.zeros(1, x.shape[2], dtype=torch.uint8)
    target[:, ::3] = 1
    check(machine, x, target, options_of(activation), ("histogram",))


@on("native", "shim", "cuda")
@sized("voxels", [1500, 50021], shim=[1500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sort_of_many_errors_in_few_octaves(
    machine: Machine, voxels: int, dtype: torch.dtype
) -> None:
    """By comparisons and by digits; errors that both dtypes hold, some of them equal."""
    require(machine, "sort", dtype)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 2**20, (2, 1, voxels), generator=generator).double() / 2**20
    target = (torch.rand((2, voxels), generator=generator) < 0.3).to(torch.uint8)
    o = options_of("hinge")
    found, (loss, _, _, g) = sort(machine, x.to(dtype), target, o), reference.sort(x, target, o)
    torch.testing.assert_close(found.loss, loss, rtol=1e-12, atol=0)
    rounding = 1e-12 if dtype == torch.float64 else 2**-24
    torch.testing.assert_close(found.g.double(), g, rtol=rounding, atol=0)


@on("native", "shim", "cuda")
@by_activation
def test_ties_share_and_ignored_voxels_do_not_count(machine: Machine, activation: str) -> None:
    require(machine, "sort")
    x, target, _ = sample((2, 3, 400), "labels", activation, torch.float32)
    x = (x * 2).round() / 2 + 0.0  # a few values, many ties
    target[:, ::5] = 255
    for dtype in (torch.float32, torch.float64):
        for per_image in (False, True):
            o = options_of(activation, per_image=per_image, ignore_index=255)
            ours = sort(machine, x.to(dtype), target, o)
            # Ties of what is computed in this type.
            loss, rows, _, g = reference.sort(x.to(dtype), target, o)
            torch.testing.assert_close(ours.loss, loss, rtol=1e-6, atol=1e-12)
            assert torch.equal(ours.rows[2], rows[2])
            assert (ours.g.movedim(1, -1)[target == 255] == 0).all()
            if activation == "hinge":  # the others' ties hang on the last bit of their rounding
                torch.testing.assert_close(ours.g, g, rtol=1e-5, atol=0)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    first = sort(machine, x, target, o)
    second = sort(machine, x[..., order], target[:, order], o)
    assert torch.equal(first.g[..., order], second.g)
