"""How hardest_voxels' kernels run on a CUDA device, and the CPU's answer; the rest: tests/ops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.measure.cuda import capture
from segloss_fast.ops.hardest_voxels import Rule, hardest_voxels
from tests.gpu.device import DEVICE, no_synchronisation, require, there
from tests.ops.hardest_voxels_cases import (
    KS,
    Case,
    of_values,
)


@pytest.fixture(autouse=True)
def _runs_here() -> None:
    require("triton", "hardest_voxels")


def run(case: Case) -> tuple[Tensor, Tensor]:
    """Return what the kernels find on the device, on the CPU."""
    weight, scales = (
        None if tensor is None else there(tensor)
        for tensor in (case.voxel_weight, case.rule.class_weight)
    )
    rule = replace(case.rule, class_weight=scales)
    found = launch(there(case.input), there(case.target), weight, rule)
    assert found[0].device.type == DEVICE
    return found[0].cpu(), found[1].cpu()


def launch(x: Tensor, target: Tensor, weight: Tensor | None, rule: Rule) -> tuple[Tensor, Tensor]:
    return hardest_voxels(x, target, weight, rule, impl="triton")


def volume(*size: int, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Return logits and labels, on the device."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    x = torch.randn((2, classes, *size), generator=generator, device=DEVICE)
    return x, torch.randint(0, classes, (2, *size), generator=generator, device=DEVICE)


@pytest.mark.parametrize("k", KS)
def test_equals_a_sort_and_the_cpu(k: float) -> None:
    """All values equal, many ties, and values further apart than roundings."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, 101, 1003)
    ties = [torch.randint(0, n, shape, generator=generator) / 8 for n in (1, 3, 40)]
    for losses in (*ties, torch.randperm(2**13, generator=generator).view(2, -1) / 512):
        case, answer = of_values(losses, k)
        found = run(case)
        assert torch.equal(found[0][:, 0], answer)
        wanted = hardest_voxels(case.input, case.target, None, case.rule)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)


def test_runs_agree_and_the_host_never_waits_and_memory_is_that_of_the_map() -> None:
    x, labels = volume(96, 95, 94)
    rule = Rule(10.0, "softmax", ignore_index=1)
    first = launch(x, labels, None, rule)  # compiles
    with no_synchronisation():
        again = launch(x, labels, None, rule)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    launch(x, labels, None, rule)
    assert torch.cuda.max_memory_allocated() - before <= x[:, :1].nbytes + 2**20


def test_a_cuda_graph_replays_it() -> None:
    x, labels = volume(16, 17, 18)
    rule = Rule(10.0, "softmax")
    graph, found = capture(lambda: launch(x, labels, None, rule))
    for shift in (1, 5):
        x.copy_(x.roll(shift, -1))
        graph.replay()
        for one, other in zip(found, launch(x, labels, None, rule), strict=True):
            assert torch.equal(one, other)


def test_more_than_2_to_the_31_voxels(free_memory: int) -> None:
    """Only the last are hard, so a wrapped offset shows; one class, seven voxels too many."""
    voxels = 2**31 + 7
    if free_memory < 12 * voxels:
        pytest.skip("not enough memory on the device")
    x = torch.zeros((1, 1, voxels), dtype=torch.float16, device=DEVICE)
    x[..., -5:] = 9
    labels = torch.zeros((1, voxels), dtype=torch.uint8, device=DEVICE)
    found, sums = launch(x, labels, None, Rule(100 * 5.5 / voxels, "sigmoid"))
    assert found[..., -5:].eq(1).all()
    assert found.count_nonzero().item() == sums.item() == 5
    found, sums = launch(x, labels, None, Rule(50.0, "sigmoid"))  # counts of ties beyond int32
    assert sums.item() == pytest.approx(voxels // 2, rel=1e-7)
