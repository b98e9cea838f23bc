"""Compiles the Triton kernels of soft_skeleton for GPUs that need not be there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from segloss_fast.ops._triton.launch import Launch
from segloss_fast.ops.soft_skeleton import triton_launch
from tests.ops.triton.compiler import compile_launch, specialization

pytestmark = pytest.mark.compiled

SPACES = {1: (4000,), 2: (64, 64), 3: (64, 64, 64)}


def forward(
    dtype: torch.dtype, space: Sequence[int], iterations: int = 2, shape: Sequence[int] = (2, 4)
) -> list[Launch]:
    with torch.device("meta"):
        x = torch.empty((*shape, *space), dtype=dtype)
        group = triton_launch.groups(x, iterations, 0, 4 * x.element_size())[0]
        maps = x.new_empty((4, group.room))
        return list(triton_launch.skeletons(group, x, maps, torch.empty_like(x)))


def backward(
    dtype: torch.dtype, space: Sequence[int], iterations: int = 2, shape: Sequence[int] = (2, 4)
) -> list[Launch]:
    with torch.device("meta"):
        x = torch.empty((*shape, *space), dtype=dtype)
        group = triton_launch.groups(x, iterations, 0, 24)[0]
        maps = x.new_empty((iterations + 2, group.room))
        codes = maps.new_empty(maps.shape, dtype=torch.int16)
        return list(triton_launch.gradients(group, x, x, maps, codes, torch.empty_like(x)))


def check(
    launches: list[Launch], capability: int, registers: int, spills: int = 0
) -> list[dict[int, int]]:
    """Check each kernel once; return the loads of each one's loop, by their bytes."""
    kinds: dict[Any, Launch] = {}
    for launch in launches:
        kinds.setdefault((launch.kernel.__name__, *launch.constants.items()), launch)
    found = {kind: compile_launch(launch, capability) for kind, launch in kinds.items()}
    loads = {}
    for kind, compiled in found.items():
        report = compiled.report()
        assert report["loop_spills"] <= spills, kind
        assert compiled.stack <= 16, kind  # what lies there around the loop
        assert compiled.registers <= registers, (kind, compiled.registers)
        assert report["loop_barriers"] == report["loop_shuffles"] == 0, kind
        loads[kind] = report["loads"]
    return list(loads.values())


@pytest.mark.parametrize("capability", [80, 90])
def test_volumes_keep_to_their_registers_and_loads(capability: int) -> None:
    """Of 65536: seven programs of 128 threads on a multiprocessor at least, nine in forward.

    A slice is read once for the three windows that it is in: 9 loads, not 27, and 5, not 7.
    """
    loads = check(forward(torch.float32, SPACES[3]), capability, 56)
    assert loads == [{4: 5}, {4: 9 + 1}, {4: 9 + 2}, {4: 9 + 2}]
    loads = check(backward(torch.float32, SPACES[3]), capability, 72)
    assert loads == [
        *({4: 5}, {4: 9 + 1}, {4: 9 + 1}, {4: 1}),
        *({2: 9, 4: 9}, {2: 9, 4: 9 + 5 + 1}, {2: 5, 4: 5 + 1}),
    ]


def test_nothing_spills() -> None:
    check(forward(torch.float64, SPACES[3]), 90, 80)
    # ptxas fits the last launch in 56 registers for sm_80, at the price of one reload per slice.
    check(backward(torch.float64, SPACES[3], 1), 80, 80, spills=1)
    check(forward(torch.uint8, SPACES[3]), 90, 64)


@pytest.mark.parametrize("rank", [1, 2])
def test_lines_and_images(rank: int) -> None:
    check(forward(torch.float32, SPACES[rank]), 90, 40)
    check(backward(torch.float32, SPACES[rank]), 90, 40)


def test_sizes_and_numbers_make_no_new_kernels() -> None:
    for make in (forward, backward):
        one, other = (
            {str(specialization(launch)) for launch in make(torch.float32, *arguments)}
            for arguments in (((16, 16, 16), 2, (1, 1)), ((1, 5, 700), 7, (3, 33)))
        )
        assert one == other
