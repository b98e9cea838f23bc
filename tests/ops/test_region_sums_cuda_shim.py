"""The CUDA kernels of region_sums, run on the CPU: order, memory, sanitizers, malformed calls."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segloss_fast._check import FLOATING
from segloss_fast.ops.region_sums import native
from tests.helpers import count_allocations, peak_allocation
from tests.machines import Machine, shim
from tests.ops import region_sums_cuda
from tests.ops.region_sums_cases import OVERLAP, case_of, check, launch, solve
from tests.ops.region_sums_cuda import backward, forward, options_of
from tests.ops.samples import sample

pytestmark = pytest.mark.shim
MACHINE = Machine("region_sums", *("shim",) * 2, "cuda_shim")


@pytest.fixture
def machine() -> Iterator[Machine]:
    """The machine, ready to run."""
    with MACHINE.prepared():
        yield MACHINE


def test_public_calls_launch_them(machine: Machine) -> None:
    """Not the CPU's kernels, which take plain tensors without asking an operator."""
    before = shim("region_sums").segloss_shim_launches()
    solve(machine, case_of((1, 2, 5)))
    assert shim("region_sums").segloss_shim_launches() == before + 3  # sums and totals; gradient


def test_too_many_classes_are_an_error(machine: Machine) -> None:
    with pytest.raises(RuntimeError, match="20000 classes do not fit into the shared memory"):
        forward([torch.zeros(1, 20000, 2)], [torch.zeros(1, 2)], [], options_of(["tp"]))


def test_levels_that_disagree_are_an_error(machine: Machine) -> None:
    x, target, _, _ = sample((1, 3, 5), "softmax", "labels")
    for other in (x[:, :2], x.float()):
        with pytest.raises(RuntimeError, match=r"must agree|must have the same"):
            forward([x, other], [target, target], [], options_of())
    with pytest.raises(RuntimeError, match="wrong shape of target"):
        forward([x], [target[:, :4]], [], options_of())
    with pytest.raises(RuntimeError, match="wrong rank of weight"):
        forward([x], [target], [target], options_of())
    with pytest.raises(RuntimeError, match="wrong shape of grad_rows"):
        backward(torch.zeros(1, 1, 3), [x], [target], [], options_of())


@pytest.mark.parametrize("classes", [3, 40])
def test_bits_do_not_depend_on_the_run_or_on_the_order_of_threads(
    machine: Machine, classes: int
) -> None:
    dense = case_of((2, classes, 5, 7, 13), "dense").to(torch.float32)
    labels = replace(dense, target=dense.x.argmax(1)).having(ce_activation="sigmoid")
    for case in (labels, dense):
        expected = solve(machine, case)
        for seed in (0, 1, 2):
            machine.set_order(seed)
            assert all(map(torch.equal, solve(machine, case), expected))
        machine.set_order(0)


def test_more_chunks_than_are_added_at_once(machine: Machine) -> None:
    """More than 1152 of an item, and the flags of more than 1280, the last of them raised."""
    machine.set_multiprocessors(300)
    case = case_of((1, 2, 1300 * 128), terms=OVERLAP).to(torch.float32)
    assert launch(machine, case)[1] == [0, 0]
    check(machine, case)
    target = case.target
    target[0, [-1, -130, 5]] = torch.tensor([9, 8, 7], dtype=target.dtype)
    for wanted in (7, 8, 9):
        rows, invalid = launch(machine, case)
        assert rows.isnan().all()
        assert invalid == [10 - wanted, wanted]
        target[target == wanted] = 0


def test_memory_for_the_sums_is_small(machine: Machine) -> None:
    """Half a megabyte and half a percent of the input for the partial sums; no more."""
    x, target, _, _ = sample((1, 105, 40, 40), "softmax", "labels")
    options = options_of((*OVERLAP, "nll"))
    size = x.numel() * x.element_size()
    assert peak_allocation(lambda: forward([x], [target], [], options)) < 2**20 + 0.01 * size
    # Rows and verdict, and what the kernels leave to each other.
    assert count_allocations(lambda: forward([x], [target], [], options)) == 3


def test_each_element_is_moved_once(tmp_path: Path) -> None:
    """The floor: forward reads the input once, backward reads it once and writes its gradient."""
    traffic, (op,) = (
        Path(__file__).with_name("region_sums_traffic.cu"),
        [source for source in region_sums_cuda.SOURCES if source.stem == "op"],
    )
    library = region_sums_cuda.build_library(
        tmp_path / "traffic.so", sources=[traffic, op], library="segloss_fast_traffic"
    )
    torch.ops.load_library(str(library))
    operators = torch.ops.segloss_fast_traffic
    counters = [
        ctypes.c_ulonglong.in_dll(ctypes.CDLL(str(library)), f"segloss_{name}")
        for name in ("loaded", "stored")
    ]
    codes = native.codes(options_of((*OVERLAP, "nll")))
    for classes, dtype, packed in itertools.product((2, 105), FLOATING, (False, True)):
        x, target, _, _ = sample((2, classes, 8, 5, 16), "softmax", "labels")
        x = x.to(dtype)
        x = x.to(memory_format=torch.channels_last_3d) if packed else x
        rows, _ = operators._region_sums([x], [target], [], *codes)
        moved = [counter.value for counter in counters]
        operators._region_sums_backward(rows, [x], [target], [], *codes)
        size = x.numel() * x.element_size()
        assert moved == [size, 0], (classes, dtype, packed)
        assert [counter.value for counter in counters] == [2 * size, size]
        for counter in counters:
            counter.value = 0
