"""The CUDA kernels of lovasz, run on the CPU: shared memory, slabs, malformed calls, sanitizers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from segloss_fast import lovasz
from segloss_fast.ops.lovasz import reference
from tests import machines
from tests.helpers import count_allocations, count_operators, relative_l2
from tests.machines import Machine
from tests.ops import lovasz_cuda
from tests.ops.lovasz_cases import (
    backward,
    by_activation,
    check,
    count,
    histogram,
    options_of,
    scan,
    truth,
)
from tests.ops.lovasz_samples import sample

pytestmark = pytest.mark.shim
TILE = 2048  # voxels that a block of the kernels takes at once
SLAB = 5  # tiles of an image at once, in this build


@pytest.fixture
def machine() -> Iterator[Machine]:
    """The machine, ready to run."""
    with lovasz_cuda.MACHINE.prepared():
        yield lovasz_cuda.MACHINE


def test_a_word_does_not_overflow(machine: Machine) -> None:
    """Every voxel adds the largest offset there is."""
    machine.set_multiprocessors(1)
    o = options_of("hinge", 9, 1, cross_entropy=False)
    x = torch.full((1, 1, 2 * TILE), -(2.0**15) * 1.9999)  # near the upper end of the last bin
    counts, rows, _ = count(machine, x, torch.ones(1, 2 * TILE), o)
    exact, *_ = reference.count(x, torch.ones(1, 2 * TILE), o)
    assert torch.equal(counts[0], exact[0])
    assert counts[1].sum() == 2 * TILE * (256 * 255 + 128)
    assert rows[0, 0, 0] == 0


@pytest.mark.parametrize("shared_kib", [227, 60, 20, 4])
@pytest.mark.parametrize("classes", [4, 9, 20])
def test_groups_of_classes(machine: Machine, shared_kib: int, classes: int) -> None:
    """As many classes at once as shared memory holds; without room for one, none of it."""
    machines.shim("lovasz").segloss_shim_set_shared_bytes(shared_kib * 1024)
    for activation in ("softmax", "sigmoid"):
        x, target, ignored = sample((2, classes, 150), "ignore", activation, torch.float32)
        o = options_of(activation, 12, 5, ignore_index=ignored)
        check(machine, x, target, o, ("histogram",))


@pytest.mark.parametrize("multiprocessors", [1, 40])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("classes", [2, 16])
def test_slabs_and_chunks(
    machine: Machine, multiprocessors: int, per_image: bool, classes: int
) -> None:
    machine.set_multiprocessors(multiprocessors)
    voxels = (2 * SLAB + 1) * TILE + 77 if classes == 2 else (SLAB + 1) * TILE - 3
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn((2, classes, voxels), generator=generator)
    target = torch.randint(0, classes, (2, voxels), generator=generator)
    o = options_of(bits=3, per_image=per_image)
    ours, exact = histogram(machine, x, target, o), truth(x, target, o, "histogram")
    assert torch.equal(ours.counts[0].sum(-1), exact.counts[0].sum(-1))
    # Moved across an edge.
    assert (ours.counts[0] - exact.counts[0]).abs().sum() < 1e-4 * exact.counts[0].sum()
    torch.testing.assert_close(ours.rows, exact.rows, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.loss, exact.loss, rtol=2.0**-12, atol=0)
    assert relative_l2(ours.grad, exact.grad) < 1e-4


@by_activation
def test_counts_do_not_depend_on_the_device(machine: Machine, activation: str) -> None:
    x, target, ignored = sample((2, 3, 2500), "ignore", activation, torch.float32)
    o = options_of(activation, bits=4, ignore_index=ignored)
    expected, *_ = count(machine, x, target, o)
    for seed, multiprocessors in ((0, 1), (1, 50)):
        machine.set_order(seed)
        machine.set_multiprocessors(multiprocessors)
        assert torch.equal(count(machine, x, target, o)[0], expected)


@pytest.mark.parametrize("classes", [3, 20])
def test_one_allocation_besides_the_results(machine: Machine, classes: int) -> None:
    """The host waits longer for each than for a launch."""
    x, target, _ = sample((2, classes, 150), "labels", "softmax", torch.float32)
    o = options_of()
    counts, rows, _ = count(machine, x, target, o)
    assert count_allocations(lambda: count(machine, x, target, o)) == 3 + 1
    assert count_allocations(lambda: scan(machine, counts, rows, o, double=False)) == 2 + 1
    options = (0, False, None, True, True)
    # Of the sort three steps have memory of their own, so that none keeps another's.
    assert count_allocations(lambda: machine.step("sort")(x, target, *options)) == 4 + 3


def test_backward_is_one_operator(machine: Machine) -> None:
    """The gradient of the loss is multiplied with where a table is looked up."""
    x, target, _ = sample((2, 4, 150), "labels", "softmax", torch.float32)
    loss = lovasz(x.requires_grad_(), target, method="histogram", impl="native").loss
    with count_operators() as found:
        torch.autograd.grad(loss.sum(), x)
    assert found["segloss_shim_lovasz._lovasz_backward.default"] == 1
    assert not {"aten.mul.Tensor", "aten._to_copy.default"} & set(found), found


def test_malformed_calls_are_errors(machine: Machine) -> None:
    x, target, _ = sample((1, 3, 5), "labels")
    o = options_of()
    counts, rows, _ = count(machine, x, target, o)
    _, table = scan(machine, counts, rows, o)
    for step, arguments, message in (
        (count, (x[0], target, o), "input must be"),
        (count, (x, target[:, :4], o), "wrong shape of target"),
        (count, (x.long(), target, o), "floating point"),
        (count, (x, target, options_of(octaves=0)), "no such bins"),
        (count, (x, target, options_of(octaves=16, bits=12)), "no such bins"),
        (scan, (counts[:, :, :, :, 1:], rows, o), "counts must be"),
        (scan, (counts, rows[:1], o), "rows must be"),
        (backward, (table[..., 1:], None, x, target, o), "table must be"),
        (backward, (table, rows[0, :, 1:], x, target, o), r"must be \[I, C\]"),
        (backward, (table, None, x, target, o, rows[0, :, 1:]), r"must be \[I, C\]"),
        (backward, (table.expand(2, -1, -1, -1), None, x, target, o), "images"),
    ):
        with pytest.raises(RuntimeError, match=message):
            step(machine, *arguments)
