"""Sums of losses, deep supervision, and steps of a network, on ranks that share a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import segloss_fast as sf
from tests.conformance import problem
from tests.helpers import gradient

Make = Callable[..., Any]


def _pair(**sync: Any) -> Any:  # noqa: ANN401
    dice = sf.DiceCELoss(batch=True, **sync)
    return 0.5 * dice + sf.TopKLoss(**sync) + -0.3 * sf.FocalLoss(**sync)


def _shared(**sync: Any) -> Any:  # noqa: ANN401
    return sf.DiceLoss(batch=True, **sync) + 2 * sf.TverskyLoss(batch=True, **sync)


# Each is a loss of an input and a target.
SUMS: dict[str, Make] = {
    "sum": _pair,
    "sum_with_one_pass": _shared,
    "levels": lambda **sync: sf.DeepSupervisionLoss(sf.DiceCELoss(batch=True, **sync)),
    "levels_of_a_sum": lambda **sync: sf.DeepSupervisionLoss(_pair(**sync), weights="nnunet"),
    "levels_of_lovasz": lambda **sync: sf.DeepSupervisionLoss(
        sf.LovaszSoftmaxLoss(ce_weight=1.0, method="histogram", **sync)
    ),
}


def run_sum(
    name: str,
    parts: tuple[int, ...] = (6,),
    rank: int = 0,
    group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient, of all items or of those of a rank."""
    case = problem("labels", (4, 6), batch=6)
    x, target = (whole.split(parts)[rank] for whole in (case.input, case.target))
    loss = SUMS[name](**({} if group is None else {"sync": group}))
    if not name.startswith("levels"):
        return gradient(lambda x: loss(x, target), x)
    return gradient(lambda x: loss([x, x[:, :, ::2, ::2], x[:, :, ::4, ::3]], target), x)


# How many items each rank has.
PARTS = ((2, 2, 2), (5, 0, 1))
STEPS = ((2, 2, 2), (5, 1), (0, 4, 2))


def train(
    parts: tuple[int, ...],
    rank: int | None = None,
    group: dist.ProcessGroup | None = None,
    *,
    learn: bool = True,
) -> Tensor:
    """Return a small network's weights after a step, of one process or of DDP's."""
    torch.manual_seed(0)
    target = torch.randint(0, 3, (6, 4, 5))
    x = torch.randn(6, 2, 4, 5, dtype=torch.float64)
    network: nn.Module = nn.Conv2d(2, 3, 3, padding=1, dtype=torch.float64)
    sync: dict[str, Any] = {}
    if rank is not None:
        x, target = x.split(parts)[rank], target.split(parts)[rank]
        network = DistributedDataParallel(network, process_group=group)
        sync = {"sync": group}
    loss = sf.DiceLoss(batch=True, **sync) + sf.CrossEntropyLoss(class_weight=[1, 2, 3], **sync)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5 if learn else 0.0)
    loss(network(x), target).backward()
    optimizer.step()
    return torch.cat([p.detach().flatten() for p in network.parameters()])
