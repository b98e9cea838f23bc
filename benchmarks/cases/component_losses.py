"""What the benchmark of component_sums compares: cells and components, losses, definitions.

The peers are region_sums, which adds up all voxels, and the losses as their authors have them
vectorised: SciPy's components and cells, and a scatter-add for each sum, written anew here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

import segloss_fast
from benchmarks.cases import components

LOSSES: dict[str, Callable[[], Any]] = {
    "ComponentDiceCE": segloss_fast.ComponentDiceCELoss,
    "Blob": segloss_fast.BlobLoss,
    "BidirectionalComponent": segloss_fast.BidirectionalComponentLoss,
    "ComponentTversky": segloss_fast.ComponentTverskyLoss,
}
SUMS = "sums over cells"
FUSED = "sums over cells but for one"
GIVEN = "ComponentDiceCE, cells given"
# The sums that losses over cells need, for which region_sums takes its kernel for any problem; and
# those among them for which it has fused loops.
TERMS = {
    SUMS: ("tp", "pred", "target", "weight", "nll", "nll_neg"),
    FUSED: ("tp", "pred", "target", "weight", "nll"),
}
SMALL = 1e-5
Cells = Callable[[Tensor], Tensor]  # from a mask of components


@dataclass(frozen=True)
class Case:
    """A loss, or the sums, of two classes, one of which has components.

    Attributes:
        loss: One of LOSSES; SUMS or FUSED; or GIVEN.
        mask: As benchmarks.cases.components has them.
        size: Voxels along each of three axes.
    """

    loss: str
    mask: str
    size: tuple[int, int, int]
    device = "cpu"

    @property
    def kind(self) -> str:
        """What is compared, on which mask."""
        return f"{self.loss}, {self.mask}"

    @property
    def name(self) -> str:
        """The case as an identifier."""
        words = f"{self.loss} {self.mask}".replace(" %", "").replace(",", "").replace(" ", "-")
        return f"{'x'.join(map(str, self.size))}-{words}"

    @property
    def shape(self) -> list[int]:
        """Of the input."""
        return [1, 2, *self.size]

    @property
    def contenders(self) -> tuple[str, ...]:
        """Who can do it."""
        return ("native", "region_sums") if self.loss in TERMS else ("native", "eager")


@dataclass(frozen=True)
class Problem:
    """The tensors of a case."""

    x: Tensor
    labels: Tensor
    cells: Tensor
    count: int


def make_problem(case: Case) -> Problem:
    """Return logits, labels, and the cells of the components."""
    mask = components.make_labels(components.Case(case.mask, case.size))
    labels = mask[None].to(torch.uint8)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(case.shape, generator=generator).requires_grad_()
    cells = segloss_fast.component_cells(labels, 2)
    return Problem(x, labels, cells, int(cells.max()))


def contender(case: Case, name: str, problem: Problem) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return a function that computes a value and the gradient."""
    value = _value(case, name, problem)

    def run() -> tuple[Tensor, Tensor]:
        found = value()
        (grad,) = torch.autograd.grad(found.sum(), problem.x)
        return found.detach(), grad

    return run


def _value(case: Case, name: str, problem: Problem) -> Callable[[], Tensor]:
    x, labels, cells = problem.x, problem.labels, problem.cells
    if case.loss in TERMS:
        options: dict[str, Any] = {"terms": TERMS[case.loss], "impl": "native"}
        if name == "native":
            count = problem.count
            return lambda: (
                segloss_fast.component_sums(x, labels, cells, count=count, **options).rows
            )
        return lambda: segloss_fast.region_sums(x, labels, **options).rows
    if name == "native":
        if case.loss == GIVEN:
            loss = segloss_fast.ComponentDiceCELoss()
            return lambda: loss(x, labels, cells=cells)
        loss = LOSSES[case.loss]()
        return lambda: loss(x, labels)
    if case.loss == GIVEN:
        return lambda: _global(x, labels) + _in_cells(x, labels, cells.long().flatten())
    return lambda: _global(x, labels) + EAGER[case.loss](x, labels, _cells_of)


def eager_value(case: Case, problem: Problem) -> Tensor:
    """Return the eager value of a loss with our cells, which break ties as ours does."""
    x, labels = problem.x.detach(), problem.labels
    if case.loss == GIVEN:
        return _value(case, "eager", problem)().detach()
    return _global(x, labels) + EAGER[case.loss](x, labels, _our_cells_of)


def _global(x: Tensor, labels: Tensor) -> Tensor:
    """Dice with cross-entropy of the whole, in eager PyTorch."""
    p, t = x.softmax(1)[:, 1], labels.float()
    dice = 1 - (2 * (p * t).sum() + SMALL) / (p.sum() + t.sum() + SMALL)
    found: Tensor = dice + torch.nn.functional.cross_entropy(x, labels.long())
    return found


def _label(mask: Tensor, faces: bool = False) -> Any:  # noqa: ANN401
    ndimage = import_module("scipy.ndimage")
    structure = ndimage.generate_binary_structure(3, 1 if faces else 3)
    return ndimage.label(mask.numpy(), structure)[0]


def _cells_of(mask: Tensor) -> Tensor:
    """Return SciPy's cells, flat."""
    found = _label(mask)
    edt = import_module("scipy.ndimage").distance_transform_edt
    places = edt(found == 0, return_distances=False, return_indices=True)
    return torch.from_numpy(np.ascontiguousarray(found[tuple(places)])).long().flatten()


def _our_cells_of(mask: Tensor) -> Tensor:
    """Return our cells, flat: SciPy takes any of the components that are equally near."""
    found = segloss_fast.connected_components(mask[None, None].to(torch.uint8))
    return segloss_fast.nearest_component(found.labels).flatten().long()


def _add(values: Tensor, bins: Tensor, count: int) -> Tensor:
    return values.new_zeros(count).scatter_add(0, bins, values.flatten())


def _maps(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return p and t of the foreground, and the cross-entropy of each voxel, flat."""
    entropy = torch.nn.functional.cross_entropy(x, labels.long(), reduction="none")
    return x.softmax(1)[0, 1].flatten(), labels.float().flatten(), entropy.flatten()


def _in_cells(x: Tensor, labels: Tensor, cells: Tensor, *, detached: bool = False) -> Tensor:
    """CC-DiceCE: the mean over cells."""
    p, t, entropy = _maps(x, labels)
    count = int(cells.max()) + 1
    tp, pred, target = (_add(v, cells, count)[1:] for v in (p * t, p, t))
    voxels = _add(torch.ones_like(p), cells, count)[1:]
    dice = 1 - (2 * tp + SMALL) / (pred + target + SMALL)
    if detached:
        square = _add(p * p.detach(), cells, count)[1:] / pred.detach().clamp_min(1e-8)
        dice = torch.where(target == 0, square, dice)
    return (dice + _add(entropy, cells, count)[1:] / voxels).mean()


def _component_dice_ce(x: Tensor, labels: Tensor, cells_of: Cells) -> Tensor:
    return _in_cells(x, labels, cells_of(labels[0]))


def _bidirectional(x: Tensor, labels: Tensor, cells_of: Cells) -> Tensor:
    predicted = cells_of(x.detach().softmax(1)[0, 1] > 0.5)
    both = _component_dice_ce(x, labels, cells_of) + _in_cells(x, labels, predicted, detached=True)
    return both / 2


def _blob(x: Tensor, labels: Tensor, _: Cells) -> Tensor:
    p, t, entropy = _maps(x, labels)
    bins = torch.from_numpy(_label(labels[0])).long().flatten()
    count = int(bins.max()) + 1
    pred, target, wrong = (_add(v, bins, count) for v in (p, t, entropy))
    voxels = _add(torch.ones_like(p), bins, count)
    dice = 1 - (2 * pred[1:] + SMALL) / (pred[0] + pred[1:] + target[1:] + SMALL)
    return (dice + (wrong[0] + wrong[1:]) / (voxels[0] + voxels[1:])).mean()


def _tversky(x: Tensor, labels: Tensor, _: Cells) -> Tensor:
    p, t, _entropy = _maps(x, labels)
    bins = torch.from_numpy(_label(labels[0], faces=True)).long().flatten()
    count = int(bins.max()) + 1
    weight = 1 / (torch.bincount(bins, minlength=count).float() + 5)
    weight[0] = 0.01
    w = weight[bins]
    right, wrong, missing = (w * p * t).sum(), (w * p * (1 - t)).sum(), (w * (1 - p) * t).sum()
    found: Tensor = 1 - (right + SMALL) / (right + 0.3 * wrong + 0.7 * missing + SMALL)
    return found


EAGER: dict[str, Callable[[Tensor, Tensor, Cells], Tensor]] = {
    "ComponentDiceCE": _component_dice_ce,
    "Blob": _blob,
    "BidirectionalComponent": _bidirectional,
    "ComponentTversky": _tversky,
}
