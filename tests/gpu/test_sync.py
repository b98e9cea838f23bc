"""sync on a CUDA device: no host waits for it, and graphs capture it. One rank, by NCCL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

import segloss_fast as sf
from benchmarks.measure.cuda import capture
from tests.gpu.device import DEVICE, no_synchronisation
from tests.helpers import assert_close, gradient


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """A process group of this process alone."""
    if not dist.is_nccl_available():
        pytest.skip("this build of torch has no NCCL")
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("nccl", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("name", ["DiceCELoss", "TopKLoss", "LovaszSoftmaxLoss"])
def test_host_does_not_wait(name: str) -> None:
    x = torch.randn(2, 3, 8, 9, device=DEVICE)
    target = torch.randint(0, 3, (2, 8, 9), device=DEVICE)
    own = {"method": "histogram"} if name.startswith("Lovasz") else {"batch": True}
    loss, alone = getattr(sf, name)(sync=True, **own), getattr(sf, name)(**own)
    expected, expected_grad = gradient(lambda x: alone(x, target), x)
    gradient(lambda x: loss(x, target), x)  # the first time it may
    with no_synchronisation():
        value, grad = gradient(lambda x: loss(x, target), x)
    assert_close(value, expected, 1e-6)
    assert_close(grad, expected_grad, 1e-6)


def test_a_graph_captures_it() -> None:
    x = torch.randn(2, 3, 8, 9, device=DEVICE)
    target = torch.randint(0, 3, (2, 8, 9), device=DEVICE)
    loss = sf.DiceLoss(batch=True, sync=True)
    graph, value = capture(lambda: loss(x, target))
    x.normal_()
    graph.replay()
    assert_close(value, sf.DiceLoss(batch=True)(x, target), 1e-6)
