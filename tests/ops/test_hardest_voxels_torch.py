"""hardest_voxels inside torch on every machine: threads, memory, operators."""

from __future__ import annotations

import pytest
import torch

from segloss_fast.ops.hardest_voxels import Rule, hardest_voxels
from segloss_fast.ops.hardest_voxels.reference import _keys
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keys_are_in_the_order_of_the_values_under_vmap_too(dtype: torch.dtype) -> None:
    """Where they are computed, because torch 2.10 has no rule for a look at bits."""
    info = torch.finfo(dtype)
    reach = 126 if dtype == torch.float32 else 1022
    exponents = torch.arange(-reach, reach + 2)
    scales = torch.ldexp(torch.ones(len(exponents), dtype=dtype), exponents)
    near = torch.tensor([1 - info.eps / 2, 1, 1 + info.eps, 1.5, 2 - info.eps], dtype=dtype)
    some = (scales[:, None] * near).flatten()
    some = some[(some >= info.tiny) & some.isfinite()]
    ends = torch.tensor([0, info.max, torch.inf], dtype=dtype)
    values = torch.cat([some, -some, ends, -ends[1:]]).unique()
    both = torch.stack([values, values.flip(0)])
    for keys in (_keys(both), torch.func.vmap(_keys)(both)):
        assert (keys[0].diff() > 0).all()
        assert torch.equal(keys[0], keys[1].flip(0))
    strange = torch.tensor([[torch.nan, torch.inf]], dtype=dtype)
    for keys in (_keys(strange), torch.func.vmap(_keys)(strange)):
        assert keys[0, 0] > keys[0, 1]
