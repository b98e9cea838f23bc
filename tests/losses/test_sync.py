"""sync: the loss and, after DDP's mean over ranks, the gradient of the whole, on two ranks."""

from __future__ import annotations

import functools
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

import segloss_fast
from tests.helpers import relative_l2
from tests.suite.tiers import begins_in

RANKS = 2


def lovasz(module: Any, *, batch: bool, sync: Any = False) -> Any:  # noqa: ANN401
    """Return a Lovász loss that pools the batch, or has one loss per item."""
    return module(per_image=not batch, ce_weight=0.5, method="histogram", bins=1152, sync=sync)


LOSSES: dict[str, Any] = {
    "dice": segloss_fast.DiceLoss,
    "dice_ce": segloss_fast.DiceCELoss,
    "focal": segloss_fast.FocalLoss,
    "generalized_dice": segloss_fast.GeneralizedDiceLoss,
    "mcc": segloss_fast.MCCLoss,
    "exp_log": segloss_fast.ExpLogLoss,
    "topk": segloss_fast.TopKLoss,
    "wasserstein": segloss_fast.GeneralizedWassersteinDiceLoss,
    "cl_dice": segloss_fast.SoftClDiceLoss,
    "structural": segloss_fast.StructuralSimilarityLoss,
    # The histogram sums over ranks in every split; so does its cross-entropy.
    "lovasz_softmax": functools.partial(lovasz, segloss_fast.LovaszSoftmaxLoss),
    "lovasz_hinge": functools.partial(lovasz, segloss_fast.LovaszHingeLoss),
}
OVER_NEIGHBOURS = ("cl_dice", "structural")  # which end where a shard does


def whole() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(3, 4, 6, 8, dtype=torch.float64), torch.randint(0, 4, (3, 6, 8))


def share(split: str, rank: int) -> tuple[slice, slice]:
    """Return a rank's items and rows: two items and one (uneven), or the halves of all."""
    if split == "batch":
        return (slice(0, 2), slice(2, 3))[rank], slice(None)
    return slice(None), (slice(0, 4), slice(4, 6))[rank]


def worker(rank: int, port: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS
    )
    results = {}
    group = dist.new_group([0, 1])
    for name, loss in LOSSES.items():
        for split in ("batch", "space"):
            if split == "space" and name in OVER_NEIGHBOURS:
                continue
            for sync in (True, group, group.group_name):
                items, rows = share(split, rank)
                x, target = whole()
                x = x[items, :, rows].clone().requires_grad_()
                value = loss(batch=split == "batch", sync=sync)(x, target[items, rows])
                value.backward()
                results[name, split, str(type(sync).__name__)] = (value.detach(), x.grad)
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@begins_in("test")
def test_two_ranks_give_the_whole(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(worker, (port, str(tmp_path)), nprocs=RANKS)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)]
    assert len(results[0]) == 6 * len(LOSSES) - 3 * len(OVER_NEIGHBOURS)
    for name, split, how in results[0]:
        x, target = whole()
        x.requires_grad_()
        value = LOSSES[name](batch=split == "batch")(x, target)
        value.backward()
        assert x.grad is not None
        for rank in range(RANKS):
            other, grad = results[rank][name, split, how]
            items, rows = share(split, rank)
            torch.testing.assert_close(other, value.detach())
            # DDP divides by the number of ranks, and adds the gradients of shared weights.
            assert relative_l2(grad / RANKS, x.grad[items, :, rows]) < 1e-12


def test_sync_without_a_process_group_says_so() -> None:
    x, target = whole()
    with pytest.raises(RuntimeError, match=r"torch\.distributed is not initialised"):
        segloss_fast.DiceLoss(sync=True)(x, target)
