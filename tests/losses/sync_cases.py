"""What ranks compute together, and one process alone: splits of a problem, for every loss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import segloss_fast as sf
from segloss_fast import functional
from tests.conformance import LOSSES, Keywords, LossRecord, Problem, combine, problem
from tests.helpers import IMPLS, gradient
from tests.records import LOVASZ_LOSSES

RANKS = 3
SIZE = (4, 5, 3)
ITEMS = 6
# Axis 0: items, evenly, unevenly, and none on some ranks. Then the axes of space.
SPLITS: tuple[tuple[int, tuple[int, ...]], ...] = (
    (0, (0, 6)),
    (0, (3, 3)),
    (0, (2, 2, 2)),
    (0, (6, 0, 0)),
    (0, (5, 1)),
    (0, (2, 0, 4)),
    (0, (6, 0)),
    (0, (1, 3, 2)),
    (2, (2, 2)),
    (3, (5, 0)),
    (4, (1, 1, 1)),
    (3, (2, 3)),
    (2, (0, 4)),
    (4, (2, 1)),
    (2, (1, 0, 3)),
    (3, (1, 3, 1)),
    (4, (0, 3, 0)),
)
# "ignored": besides, whole shares are ignored, those of the ranks before the last.
KINDS = ("ignore", "dense", "ignored", "labels", "class_weighted", "all_ignored")
POOLED: tuple[Keywords, ...] = (
    {},
    {"smooth_nr": 0.0, "smooth_dr": 1e-3},
    {"reduction": "none", "class_weight": [3.0, 0.1, 0.7]},
    {"activation": "sigmoid", "include_background": False, "absent": "skip"},
    {"reduction": "sum", "class_weight": [0.5, 2.0, 1.0], "smooth_nr": 1.0, "smooth_dr": 2.0},
)
LOVASZ: tuple[Keywords, ...] = (
    {"ce_weight": 0.5},
    {"bins": 1152, "reduction": "none"},
    {"ce_weight": 2.0, "reduction": "sum", "class_weight": [0.5, 2.0, 1.0]},
)
AROUND = {  # These look around each voxel.
    sf.HausdorffDTLoss,
    sf.LogHausdorffDTLoss,
    sf.HausdorffERLoss,
    sf.ShapeAwareLoss,
    sf.StructuralSimilarityLoss,
    sf.SoftClDiceLoss,
    sf.SoftDiceClDiceLoss,
    sf.BlobLoss,
    sf.ComponentDiceCELoss,
    sf.BidirectionalComponentLoss,
    sf.ComponentTverskyLoss,
}
HARD = {record.module for record in LOSSES if record.hard}
WITH_FIELD = {sf.BoundaryLoss, sf.DistancePenalizedCELoss}
NOT_OVER_VOXELS = {
    *(sf.HausdorffDTLoss, sf.LogHausdorffDTLoss, sf.HausdorffERLoss, sf.BoundaryLoss),
}


class WithSkeleton(sf.SkeletonRecallLoss):
    """SkeletonRecallLoss, called as other losses are: the whole of a structure is its skeleton."""

    def forward(self, input: Tensor, target: Tensor, voxel_weight: Any = None) -> Tensor:  # type: ignore[override]  # noqa: ANN401
        return super().forward(input, target, voxel_weight, skeleton=target * (target != 255))


SKELETON = LossRecord(
    WithSkeleton, functional.skeleton_recall_loss, lambda _: torch.empty(0), ({},), region=True
)


@dataclass(frozen=True)
class Case:
    """One call on all ranks of a group: the first ones, or all.

    Attributes:
        loss: The function that makes it, given its keywords.
        keywords: Those of one process.
        sync: Those that ranks have besides, but for ``sync``.
        kind: Of the problem.
        dtype: Of the input.
        axis: Along which the problem is split.
        parts: How much of it each rank has.
    """

    loss: Callable[..., Any]
    keywords: Keywords
    sync: Keywords
    kind: str
    dtype: torch.dtype
    axis: int
    parts: tuple[int, ...]

    def whole(self) -> tuple[Problem, Tensor | None]:
        """Return the whole problem, and a field for the losses that take one."""
        kind = "ignore" if self.kind in ("ignored", "all_ignored") else self.kind
        case = problem(kind, SIZE, batch=ITEMS, dtype=self.dtype, hard=self.loss in HARD)
        if self.kind == "all_ignored":
            case.target.fill_(255)
        elif self.kind == "ignored":
            for rank in range(len(self.parts) - 1):
                self.share(case.target, rank, case).fill_(255)
        field = None
        if self.loss in WITH_FIELD:
            field = torch.rand(case.input.shape, generator=torch.Generator().manual_seed(1))
        return case, field

    def share(self, tensor: Tensor, rank: int, whole: Problem) -> Tensor:
        """Return a rank's part of a tensor of the problem, as a view."""
        axis = self.axis
        if axis and tensor.dim() < whole.input.dim():
            axis -= 1
        part: Tensor = tensor.split(self.parts, axis)[rank]
        return part

    def run(self, rank: int | None = None, **sync: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """Return the loss and its gradient, of the whole or of a rank's share."""
        whole, field = self.whole()
        tensors = [whole.input, whole.target, whole.voxel_weight, field]
        if rank is not None:
            tensors = [None if t is None else self.share(t, rank, whole) for t in tensors]
            sync = {**self.sync, **sync}
        x, target, weight, field = tensors
        assert x is not None
        if self.keywords.get("activation") == "probabilities":
            x = x.sigmoid()
        others = [] if field is None else [field]
        loss = self.loss(**self.keywords, ignore_index=whole.ignore_index, **sync)
        return gradient(lambda x: loss(x, target, weight, *others), x)


def cases(names: set[str]) -> dict[str, list[Case]]:
    """Return the cases of each loss of these names."""
    found = {record.name: list(_of_record(record)) for record in LOSSES if record.name in names}
    for module, _ in LOVASZ_LOSSES.values():
        if module.__name__ in names:
            found[module.__name__] = list(_of_lovasz(module))
    if "SkeletonRecallLoss" in names:
        found["SkeletonRecallLoss"] = list(_of_record(SKELETON))
    return found


def _dtype(place: int) -> torch.dtype:
    return torch.float32 if place % 3 == 2 else torch.float64


def _of_record(record: LossRecord) -> Iterator[Case]:
    """Yield a case for each split, with the next of the loss's keywords, and of the common ones."""
    place = 0
    owns = [own for own in record.keywords if "iterations" in own] or record.keywords  # few of them
    for turn in range(2):
        for axis, parts in SPLITS:
            apart = record.region or record.module in NOT_OVER_VOXELS
            if (axis and record.module in AROUND) or (turn and apart and not axis):
                continue
            place += 1
            common = POOLED[place % len(POOLED)]
            own = owns[(place + turn) % len(owns)]
            keywords = combine(record, own, common)
            while keywords is None:
                place += 1
                keywords = combine(record, own, POOLED[place % len(POOLED)])
            may_pool_alone = not apart and keywords.get("reduction") != "none"
            batch = turn == 0 if axis or may_pool_alone else True
            yield Case(
                record.module,
                {**keywords, "batch": batch},
                {"shards": axis > 0},
                KINDS[(place + turn) % len(KINDS)],
                _dtype(place),
                axis,
                parts,
            )


def _of_lovasz(module: Callable[..., Any]) -> Iterator[Case]:
    for place, (axis, parts) in enumerate(SPLITS):
        kinds = [kind for kind in KINDS if kind != "class_weighted"]
        yield Case(
            functools.partial(module, method="histogram", impl=IMPLS[place % len(IMPLS)]),
            {**LOVASZ[place % len(LOVASZ)], "per_image": axis > 0 and place % 2 == 0},
            {"shards": axis > 0},
            kinds[place % len(kinds)],
            _dtype(place),
            axis,
            parts,
        )
