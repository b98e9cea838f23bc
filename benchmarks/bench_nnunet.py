"""The loss of a training step of nnU-Net: of its own trainer and of ours, on the CPU.

    python -m pytest benchmarks/bench_nnunet.py --benchmark-only -o addopts=

Two patches of 96^3, three classes, int16 labels, four levels of deep supervision with nnU-Net's
weights, whose fifth is 0. ``SegLossFast`` is nnU-Net's own loss, by its classes and by ours;
``Hausdorff`` and ``ClDice`` add a loss to it, MONAI's or ours. nnU-Net is installed into a folder
of its own the first time. What is measured, and how it is published, is as in
bench_region_sums.py.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import monai.losses
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from benchmarks.cases.contenders import LEVELS, Case, contenders
from benchmarks.cases.inputs import Tensors, blob_labels, logits
from benchmarks.measure import compare
from benchmarks.measure.choice import parametrize
from benchmarks.measure.harness import Effort, Step
from segloss_fast import HausdorffDTLoss, SoftClDiceLoss
from segloss_fast.compat import nnunet
from segloss_fast.compat.nnunet import ClDiceMixin, HausdorffMixin
from segloss_fast.compat.nnunet._own import OwnLoss, StockAnd
from tests.compat import nnunet_site
from tests.peers import nnunet_losses

CONTENDERS = ("native", "eager")
OPTIONS = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
WEIGHTS = [0.5**level for level in range(LEVELS - 1)]
WEIGHTS = [weight / sum(WEIGHTS) for weight in WEIGHTS]
HEAD = {"include_background": False, "to_onehot_y": True, "softmax": True}
ADDED: dict[str, tuple[float, Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "Hausdorff": (
        HausdorffMixin.map_weight,
        lambda: OwnLoss(HausdorffDTLoss(include_background=False), WEIGHTS),
        lambda: monai.losses.HausdorffDTLoss(**HEAD),
    ),
    "ClDice": (
        ClDiceMixin.cldice_weight,
        lambda: OwnLoss(SoftClDiceLoss(include_background=False), WEIGHTS),
        lambda: monai.losses.SoftclDiceLoss(**HEAD),
    ),
}
NAMES = ("SegLossFast", *ADDED)


class Stock(nn.Module):
    """nnU-Net's loss of a level, plus a share of one of MONAI's."""

    def __init__(self, stock: nn.Module, weight: float, added: nn.Module, side: int) -> None:
        super().__init__()
        self.stock, self.weight, self.added, self.side = stock, weight, added, side

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss; MONAI's distances have the target's dtype, and are in voxels."""
        added = self.added(output, target.float())
        if isinstance(self.added, monai.losses.HausdorffDTLoss):
            added = (self.side / output.shape[-1]) ** 2 * added  # in voxels of the first level
        total: Tensor = self.stock(output, target) + self.weight * added
        return total


def ours(name: str) -> nn.Module:
    """Return the loss of our trainer."""
    dice = nnunet.MemoryEfficientSoftDiceLoss
    loss = nnunet.DC_and_CE_loss({**OPTIONS}, {}, dice_class=dice)
    stock = nnunet.DeepSupervisionWrapper(loss, WEIGHTS)
    if name not in ADDED:
        return stock
    weight, make, _ = ADDED[name]
    return StockAnd(stock, make(), weight)


def theirs(name: str, side: int) -> nn.Module:
    """Return the same of nnU-Net and MONAI."""
    nnunet_site.made()
    dice = nnunet_losses("dice").MemoryEfficientSoftDiceLoss
    loss = nnunet_losses("compound_losses").DC_and_CE_loss({**OPTIONS}, {}, dice_class=dice)
    if name in ADDED:
        weight, _, make = ADDED[name]
        loss = Stock(loss, weight, make(), side)
    wrapped: nn.Module = nnunet_losses("deep_supervision").DeepSupervisionWrapper(loss, WEIGHTS)
    return wrapped


def cases(side: int) -> list[Case]:
    """Return a case per trainer, with patches of that side."""
    return [Case(name, (2, 3, side, side, side), contenders=CONTENDERS) for name in NAMES]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, cases(96), cases(32), contenders)


def _step(loss: nn.Module, inputs: Tensors, targets: Tensors) -> Step:
    def called(inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        value: Tensor = loss(list(inputs), list(targets))
        return value

    return Step(called, inputs, targets)


@functools.lru_cache(maxsize=1)
def measure(case: Case, effort: Effort) -> compare.Measured:
    """Compare the two sides."""
    batch, classes, side, *_ = case.shape
    shapes = [(batch, classes, *[side >> level] * 3) for level in range(len(WEIGHTS))]
    labels = [blob_labels(shape) for shape in shapes]
    inputs = tuple(logits(level, classes, case.logits).requires_grad_() for level in labels)
    targets = tuple(level.short() for level in labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        losses = {"native": ours(case.loss), "eager": theirs(case.loss, side)}
        steps = {name: _step(loss, inputs, targets) for name, loss in losses.items()}
        return compare.compare(steps, steps["eager"], effort)


def test_nnunet(benchmark: BenchmarkFixture, case: Case, contender: str, effort: Effort) -> None:
    effort = replace(effort, rounds=5)
    about = compare.describe(case, "nnU-Net", "native")
    accuracy = compare.record(benchmark, measure(case, effort), contender, "both", effort, about)
    assert accuracy.value < 1e-4, f"not the same loss: {accuracy}"
