"""nnU-Net's Dice losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from segloss_fast._sync import ranks_of
from segloss_fast.compat._volumes import plain
from segloss_fast.compat.nnunet._sums import (
    Ask,
    FromSums,
    activation_of,
    as_channels,
    is_labels,
    sums_of,
)
from segloss_fast.ops.region_sums import RegionSums

TERMS = ("tp", "pred", "target")


class Dice(FromSums, nn.Module):
    """What nnU-Net's two Dice losses have in common: minus the mean Dice."""

    clip_tp: float | None = None
    mask_without_background = False  # whether a mask may have a channel per class that counts

    def __init__(
        self,
        apply_nonlin: Callable[[Tensor], Tensor] | None = None,
        batch_dice: bool = False,
        do_bg: bool = True,
        smooth: float = 1.0,
        ddp: bool = True,
    ) -> None:
        super().__init__()
        self.do_bg = do_bg
        self.batch_dice = batch_dice
        self.apply_nonlin = apply_nonlin
        self.smooth = smooth
        self.ddp = ddp

    def forward(self, x: Tensor, y: Tensor, loss_mask: Tensor | None = None) -> Tensor:
        """Return the loss.

        Args:
            x: ``[B, C, *S]``.
            y: Class indices ``[B, *S]`` or ``[B, 1, *S]``, or values ``[B, C, *S]``.
            loss_mask: ``[B, 1, *S]``, multiplied to each voxel's share.

        Raises:
            ValueError: If the target has another shape, or labels are out of range.
        """
        asks = [self.ask(x, y, loss_mask)]
        return self.values(asks, sums_of(asks))[0]

    def ask(self, x: Tensor, y: Tensor, loss_mask: Tensor | None = None) -> Ask:
        """Return the sums that the loss needs; what is no softmax or sigmoid is applied here."""
        x, y = as_channels(x, y)
        activation = activation_of(self.apply_nonlin, x.shape[1])
        if activation is None:
            assert self.apply_nonlin is not None
            x, activation = self.apply_nonlin(x), "probabilities"
        if x.shape != y.shape and not is_labels(x, y):
            labels = [x.shape[0], 1, *x.shape[2:]]
            raise ValueError(
                f"y must be class indices of shape {labels} or {[labels[0], *labels[2:]]}, or "
                f"values of shape {list(x.shape)} like x, got {list(y.shape)}"
            )
        weight = None if loss_mask is None else self._weight(x, plain(loss_mask).detach())
        return Ask(x, y, activation, TERMS, weight=weight)

    def _weight(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return a mask as region_sums takes it."""
        batch, classes, *size = x.shape
        if self.mask_without_background and not self.do_bg and mask.shape[1] == classes - 1 > 1:
            mask = torch.cat([mask[:, :1], mask], 1)
        if mask.dim() == x.dim() and mask.shape[1] in (1, classes):
            return mask.expand(batch, mask.shape[1], *size)
        raise RuntimeError(
            f"loss_mask must have shape {[batch, 1, *size]}, got {list(mask.shape)} for x of shape "
            f"{list(x.shape)}"
        )

    def values(self, asks: Sequence[Ask], sums: Sequence[RegionSums]) -> list[Tensor]:
        """Return the loss of each level, float32 as nnU-Net's sums."""
        return [value.float() for value in self.exact(asks, [each.rows for each in sums])]

    def exact(self, asks: Sequence[Ask], tables: Sequence[Tensor]) -> list[Tensor]:
        """Return the losses, float64, of levels with the rows ``[3, B, C]`` of TERMS."""
        if self.batch_dice:
            tables = [table.sum(1, keepdim=True) for table in tables]
            if self.ddp:
                tables = self._over_ranks(asks[0].input, tables)
        return [self._of(table) for table in tables]

    def _over_ranks(self, x: Tensor, tables: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the sums over the batches of all ranks, of all levels by one collective."""
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                "batch_dice with ddp=True adds sums over the processes, and torch.distributed is "
                "not initialised; give ddp=False, or call torch.distributed.init_process_group"
            )
        ranks = ranks_of(True, False, x)
        assert ranks is not None
        return ranks.add(torch.stack(list(tables)), "nnU-Net's Dice").unbind()

    def _of(self, table: Tensor) -> Tensor:
        tp, pred, target = table.unbind()
        twice = 2 * tp
        size = pred + target
        if self.clip_tp is not None:  # which changes what both have in common, not the rest
            clipped = 2 * torch.clip(tp, min=self.clip_tp)
            twice, size = clipped, size - twice + clipped
        dc = (twice + self.smooth) / (size + self.smooth).clamp_min(1e-8)
        return -(dc if self.do_bg else dc[:, 1:]).mean()


class SoftDiceLoss(Dice):
    """nnU-Net's SoftDiceLoss, with its arguments.

    >>> softmax = segloss_fast.compat.nnunet.softmax_helper_dim1
    >>> loss = segloss_fast.compat.nnunet.SoftDiceLoss(softmax, smooth=0.0)
    >>> loss(torch.zeros(1, 2, 4), torch.tensor([[[0, 0, 1, 1]]]))
    tensor(-0.5000)

    Minus the mean over items and classes of ``(2 tp + smooth) / max(pred + target + smooth, 1e-8)``
    (over classes, of the sums over the batch, with ``batch_dice``).

    Args:
        apply_nonlin: What the input gets. The softmax over the classes (nnU-Net's or this module's
            ``softmax_helper_dim1``, or ``torch.nn.Softmax(1)``) and the sigmoid (``torch.sigmoid``,
            ``torch.nn.Sigmoid()``) become part of the pass; anything else is called.
        batch_dice: Whether the items of the batch are pooled.
        do_bg: Whether the first class has a share.
        smooth: Added to both sides of the fraction.
        ddp: Whether the batches of all processes are pooled, with ``batch_dice``.
        clip_tp: What the overlap of a class is at least.
    """

    def __init__(
        self,
        apply_nonlin: Callable[[Tensor], Tensor] | None = None,
        batch_dice: bool = False,
        do_bg: bool = True,
        smooth: float = 1.0,
        ddp: bool = True,
        clip_tp: float | None = None,
    ) -> None:
        super().__init__(apply_nonlin, batch_dice, do_bg, smooth, ddp)
        self.clip_tp = clip_tp


class MemoryEfficientSoftDiceLoss(Dice):
    """nnU-Net's MemoryEfficientSoftDiceLoss, with its arguments: here the same as SoftDiceLoss.

    >>> softmax = segloss_fast.compat.nnunet.softmax_helper_dim1
    >>> loss = segloss_fast.compat.nnunet.MemoryEfficientSoftDiceLoss(softmax, do_bg=False)
    >>> loss(torch.zeros(1, 2, 4), torch.tensor([[[0, 0, 1, 1]]]))
    tensor(-0.6000)

    See :class:`SoftDiceLoss` for the formula and the arguments. With ``ddp`` the processes may have
    different numbers of items.
    """

    mask_without_background = True
