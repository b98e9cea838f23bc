"""The losses of this package, called with the outputs and targets of nnU-Net."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segloss_fast.losses._module import Loss
from segloss_fast.losses.deep_supervision import DeepSupervisionLoss
from segloss_fast.losses.lovasz import LovaszSigmoidLoss
from segloss_fast.losses.weighted_sum import WeightedSum, parts_of

Levels = Tensor | Sequence[Tensor]
IGNORED = 255  # of the labels 0 and 1 of a region


class OwnLoss(nn.Module):
    """A loss of this package, or a sum of some, in the place of one of nnU-Net's.

    ``forward(output, target)`` takes what nnU-Net's trainer has: with deep supervision a list of
    outputs and one of targets, the largest first, else one of each. Targets are class indices
    ``[B, 1, *S]``, or regions ``[B, R, *S]``, with ``mask_channel`` followed by a channel that is 1
    where a voxel does not count.

    Args:
        loss: The loss.
        level_weights: A number per level of deep supervision; None without.
        mask_channel: Whether the targets' last channel says what does not count.
    """

    def __init__(
        self,
        loss: Loss | WeightedSum,
        level_weights: Sequence[float] | None = None,
        *,
        mask_channel: bool = False,
    ) -> None:
        super().__init__()
        self.levels = DeepSupervisionLoss(loss, [1.0] if level_weights is None else level_weights)
        self.mask_channel = mask_channel
        parts = [part for _, part in parts_of(loss)]
        # A loss that orders voxels has no weight for each of them.
        self.per_region = mask_channel and any(isinstance(p, LovaszSigmoidLoss) for p in parts)
        if self.per_region:
            for part in parts:
                part.ignore_index = IGNORED

    def forward(self, output: Levels, target: Levels) -> Tensor:
        """Return the loss."""
        outputs = [output] if isinstance(output, Tensor) else list(output)
        targets = [target] if isinstance(target, Tensor) else list(target)
        found: Tensor
        if not self.mask_channel:
            found = self.levels(outputs, targets)
            return found
        regions = [t[:, :-1] for t in targets]
        ignored = [t[:, -1:].bool() for t in targets]
        if self.per_region:
            return self._per_region(outputs, regions, ignored)
        found = self.levels(outputs, regions, [(~mask).float() for mask in ignored])
        return found

    def _per_region(
        self, outputs: Sequence[Tensor], regions: Sequence[Tensor], ignored: Sequence[Tensor]
    ) -> Tensor:
        """Return the mean over regions of the losses of labels, some of them IGNORED."""
        labels = [
            t.to(torch.uint8).masked_fill(mask, IGNORED)
            for t, mask in zip(regions, ignored, strict=True)
        ]
        each = [
            self.levels([x[:, r : r + 1] for x in outputs], [t[:, r : r + 1] for t in labels])
            for r in range(labels[0].shape[1])
        ]
        return torch.stack(each).mean()


class StockAnd(nn.Module):
    """nnU-Net's own loss, and a share of another one.

    Args:
        stock: Called with outputs and targets.
        added: Likewise.
        weight: Factor of what is added; can be read and set.
    """

    def __init__(self, stock: nn.Module, added: nn.Module, weight: float) -> None:
        super().__init__()
        self.stock = stock
        self.added = added
        self.weight = weight

    def forward(self, output: Levels, target: Levels) -> Tensor:
        """Return ``stock + weight * added``."""
        total: Tensor = self.stock(output, target) + self.weight * self.added(output, target)
        return total

    def extra_repr(self) -> str:
        return f"weight={self.weight}"
