"""What the benchmarks of lovasz compare: cases, our losses, the published algorithm, its copies.

The contenders:

* ``histogram``, ``sort``: ours, by ``method``, with the native kernels; ``triton``: ours, the
  histogram's Triton kernels;
* ``eager``: the algorithm of Berman et al. 2018 in plain PyTorch, written for this benchmark: class
  by class a sort, cumulative sums, differences of neighbouring Jaccard values, a dot product;
* ``compiled``: the same under torch.compile, which breaks the graph where it asks for the classes
  that are present;
* ``kornia``, ``smp``: kornia's and segmentation-models-pytorch's losses, where they are installed
  and have the loss: Lovász-softmax and, of one class, Lovász-hinge.
"""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

import segloss_fast
from benchmarks.cases.contenders import HALF, on_one
from benchmarks.cases.inputs import LossFunction
from segloss_fast.ops.lovasz.op import kernels

LOSSES = {
    "LovaszSoftmax": segloss_fast.LovaszSoftmaxLoss,
    "LovaszSigmoid": segloss_fast.LovaszSigmoidLoss,
    "LovaszHinge": segloss_fast.LovaszHingeLoss,
}
# method and impl of ours
OURS = {
    "histogram": ("histogram", "native"),
    "sort": ("sort", "native"),
    "triton": ("histogram", "triton"),
}
PACKAGES = {"kornia": "kornia", "smp": "segmentation_models_pytorch"}
PEERS = ("eager", "compiled", *PACKAGES)


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        loss: One of LOSSES.
        shape: ``[1, C, *S]``.
        foreground: Share of the voxels that are not background.
        logits: ``"random"`` or ``"saturated"``.
        contenders: Those to compare.
        dtype: Of the input.
        device: ``"cpu"`` or ``"cuda"``.
    """

    loss: str
    shape: tuple[int, ...]
    foreground: float
    logits: str
    contenders: tuple[str, ...]
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    @property
    def kind(self) -> str:
        """Logits and foreground, like ``random, 30 %``."""
        return f"{self.logits}, {100 * self.foreground:g} %"

    @property
    def name(self) -> str:
        """The case as an identifier."""
        size, dtype = "x".join(map(str, self.shape)), str(self.dtype)[6:]
        return f"{self.loss}-{size}-{dtype}-{self.logits}-{100 * self.foreground:g}%"


def cube(
    loss: str,
    classes: int,
    side: int,
    logits: str,
    foreground: float,
    *contenders: str,
    **options: object,
) -> Case:
    """Return a case of one cubic volume."""
    shape = (1, classes, side, side, side)
    return Case(loss, shape, foreground, logits, contenders, **options)  # type: ignore[arg-type]


def extension(errors: Tensor, foreground: Tensor) -> Tensor:
    """Return the Lovász extension of one class's Jaccard loss, as published.

    Args:
        errors: ``[N]``.
        foreground: 0 or 1, ``[N]``, of the same dtype.
    """
    errors, order = torch.sort(errors, descending=True)
    foreground = foreground[order]
    total = foreground.sum()
    intersection = total - foreground.cumsum(0)
    union = total + (1 - foreground).cumsum(0)
    jaccard = 1 - intersection / union
    increments = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    return torch.dot(errors, increments)


def published(loss: str, input: Tensor, target: Tensor) -> Tensor:
    """Return the loss by the published algorithm: pooled over the batch.

    Args:
        loss: One of LOSSES.
        input: ``[B, C, *S]``.
        target: ``[B, 1, *S]``.
    """
    labels = target.flatten()
    x = input.movedim(1, 0).flatten(1)  # [C, N]
    if loss == "LovaszHinge":
        t = (labels != 0).to(x.dtype)
        return extension(torch.relu(1 - x[0] * (2 * t - 1)), t)
    if loss == "LovaszSigmoid":
        t = (labels != 0).to(x.dtype)
        return extension((t - x[0].sigmoid()).abs(), t)
    p = x.softmax(0)
    losses = []
    for c in range(len(p)):
        t = (labels == c).to(p.dtype)
        if t.sum() > 0:
            losses.append(extension((t - p[c]).abs(), t))
    return torch.stack(losses).mean()


def _kornia(case: Case) -> Callable[[Tensor, Tensor], Tensor]:
    losses = import_module("kornia.losses")
    hinge = case.loss == "LovaszHinge"
    loss = losses.lovasz_hinge_loss if hinge else losses.lovasz_softmax_loss
    # It takes images only; one row of voxels is as good as any image.
    return lambda x, t: loss(x.flatten(2)[:, :, None], t.flatten(1)[:, None])


def smp_losses() -> ModuleType:
    """Return SMP's losses alone: its models import packages that these do not need."""
    name = PACKAGES["smp"]
    spec = find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    if name not in sys.modules:
        package = ModuleType(name)
        package.__spec__ = spec
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[name] = package
    return import_module(f"{name}.losses")


def _smp(case: Case) -> Callable[[Tensor, Tensor], Tensor]:
    losses = smp_losses()
    mode = "binary" if case.loss == "LovaszHinge" else "multiclass"
    loss = losses.LovaszLoss(mode=mode)
    return lambda x, t: loss(x, t[:, 0])


def contender(case: Case, name: str) -> LossFunction:
    """Return the loss of a contender."""
    if name in OURS:
        method, impl = OURS[name]
        return on_one(LOSSES[case.loss](method=method, impl=impl))
    if name in PACKAGES:
        peer = _kornia(case) if name == "kornia" else _smp(case)
    else:
        peer = functools.partial(published, case.loss)
    if case.dtype in HALF:  # as under autocast
        inner = peer
        peer = lambda x, t: inner(x.float(), t)  # noqa: E731
    if name == "compiled":
        torch.compiler.reset()
        peer = torch.compile(peer, dynamic=False)
    return on_one(peer)


def truth(case: Case) -> LossFunction:
    """Return what answers are judged by, on the same input in float64: the exact sort."""
    return on_one(LOSSES[case.loss](method="sort", impl="reference"))


def contenders(case: Case) -> list[str]:
    """Return the contenders of the case that run here."""
    device = torch.device(case.device)
    compiler = shutil.which("g++") or shutil.which("clang++")

    def runs(name: str) -> bool:
        if name in OURS:
            method, impl = OURS[name]
            return kernels.why_not(impl, device, case.dtype, method) is None
        if name in PACKAGES:
            return case.loss != "LovaszSigmoid" and find_spec(PACKAGES[name]) is not None
        return name == "eager" or compiler is not None

    return [name for name in case.contenders if runs(name)]
