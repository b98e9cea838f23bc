"""hardest_voxels inside torch on every machine: threads, memory, operators."""

from __future__ import annotations

import torch

from segloss_fast.ops.hardest_voxels import Rule, hardest_voxels
from tests.helpers import peak_allocation
from tests.machines import Machine, on, sized
from tests.suite.tiers import begins_in

SOFTMAX = Rule(10.0, "softmax")


def sample(classes: int, size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(classes)
    return 3 * torch.randn(2, classes, *size), torch.randint(0, classes, (2, *size))


@on("native")
def test_threads_and_runs_agree(machine: Machine) -> None:
    x, labels = sample(3, (40, 50, 60))
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 7, 2):
            torch.set_num_threads(count)
            results.append(hardest_voxels(x, labels, None, SOFTMAX, impl=machine.impl))
    finally:
        torch.set_num_threads(threads)
    for found, selected in results[1:]:
        assert torch.equal(found, results[0][0])
        assert torch.equal(selected, results[0][1])


@on("native")
def test_keeps_one_map(machine: Machine) -> None:
    x, labels = sample(4, (64, 64, 64))
    peak = peak_allocation(lambda: hardest_voxels(x, labels, None, SOFTMAX, impl=machine.impl))
    assert peak < x[:, :1].nbytes + 2**20


@begins_in("test")
@on("native", "interpreted")
@sized("dense", [False, True], interpreted=[False])
def test_opcheck(machine: Machine, dense: bool) -> None:
    x, labels = sample(3, (4, 5))
    target = torch.rand_like(x) if dense else labels
    scales = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    activation = machine.pick("sigmoid", interpreted="softmax")
    options = (torch.rand(2, 1, 4, 5), scales, 30.0, activation, 1, None, machine.impl)
    torch.library.opcheck(torch.ops.segloss_fast.hardest_voxels, (x, target, *options))
