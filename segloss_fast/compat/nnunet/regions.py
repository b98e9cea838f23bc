"""nnU-Net's compound loss of regions, which may overlap: from one pass over the volume."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from segloss_fast.compat._volumes import plain
from segloss_fast.compat.nnunet._sums import Ask, activation_of
from segloss_fast.compat.nnunet.compound import Compound, Keywords
from segloss_fast.compat.nnunet.dice import TERMS, MemoryEfficientSoftDiceLoss
from segloss_fast.ops.region_sums import RegionSums


class DC_and_BCE_loss(Compound):
    """nnU-Net's DC_and_BCE_loss, with its arguments, for regions, which may overlap.

    >>> loss = segloss_fast.compat.nnunet.DC_and_BCE_loss({}, {"smooth": 0.0})
    >>> loss(torch.zeros(1, 2, 4), torch.ones(1, 2, 4, dtype=torch.bool))
    tensor(0.0265)

    ``weight_ce * BCEWithLogitsLoss + weight_dice * dice_class`` of the sigmoid, from one pass. With
    ``use_ignore_label`` the target has one channel more, the last, which is 1 where a voxel does
    not count; and the cross-entropy is the mean over voxels of its sum over regions, as nnU-Net's.

    Args:
        bce_kwargs: Arguments of ``torch.nn.BCEWithLogitsLoss``.
        soft_dice_kwargs: Arguments of ``dice_class``.
        weight_ce: Factor of the cross-entropy.
        weight_dice: Factor of Dice.
        use_ignore_label: Whether the target's last channel says what does not count.
        dice_class: The class of Dice; another one than this module's has a pass of its own.
    """

    def __init__(
        self,
        bce_kwargs: Keywords,
        soft_dice_kwargs: Keywords,
        weight_ce: float = 1,
        weight_dice: float = 1,
        use_ignore_label: bool = False,
        dice_class: Callable[..., nn.Module] = MemoryEfficientSoftDiceLoss,
    ) -> None:
        super().__init__()
        if use_ignore_label:
            bce_kwargs = {**bce_kwargs, "reduction": "none"}
        self.weight_dice = weight_dice
        self.weight_ce = weight_ce
        self.use_ignore_label = use_ignore_label
        self.ce = nn.BCEWithLogitsLoss(**bce_kwargs)
        self.dc = dice_class(apply_nonlin=torch.sigmoid, **soft_dice_kwargs)

    def _parts(self, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the regions, and where they count."""
        if not self.use_ignore_label:
            return target, None
        last = target[:, -1:]
        return target[:, :-1], ~last if last.dtype == torch.bool else (1 - last).bool()

    def ask(self, net_output: Tensor, target: Tensor) -> Ask | None:
        """Return the sums of both."""
        x, ce, dice = plain(net_output), self.ce, self.dice()
        if (
            type(ce) is not nn.BCEWithLogitsLoss
            or ce.weight is not None
            or dice is None
            or (ce.reduction == "none") != self.use_ignore_label
            or not (self.weight_ce or self.weight_dice)
            or (ce.pos_weight is not None and not self._is_per_class(ce.pos_weight, x))
            or activation_of(dice.apply_nonlin, x.shape[1]) != "sigmoid"
        ):
            return None
        regions, mask = self._parts(plain(target).detach())
        if regions.shape != x.shape:
            return None
        terms = (
            *(TERMS if self.weight_dice else ()),
            *(("nll", "nll_neg") if self.weight_ce else ()),
            *(("weight",) if self.weight_ce and mask is not None else ()),
        )
        return Ask(x, regions, "sigmoid", terms, weight=mask)

    @staticmethod
    def _is_per_class(weight: Tensor, x: Tensor) -> bool:
        """Whether torch multiplies a number to each class."""
        if weight.numel() == 1:
            return True
        shape = [1] * (x.dim() - weight.dim()) + list(weight.shape)
        return shape == [1, x.shape[1]] + [1] * (x.dim() - 2)

    def values(self, asks: Sequence[Ask], sums: Sequence[RegionSums]) -> list[Tensor]:
        """Return the loss of each level."""
        return self.weighted(asks, sums, self._entropy)

    def _entropy(self, sums: RegionSums, ask: Ask) -> Tensor:
        ce = self.ce
        assert isinstance(ce, nn.BCEWithLogitsLoss)
        positive = sums.nll
        if ce.pos_weight is not None:
            positive = positive * ce.pos_weight.to(positive).flatten()
        total = (positive + sums.nll_neg).sum()
        if self.use_ignore_label:
            return total / sums.weight[:, 0].sum().clamp_min(1e-8)
        return total if ce.reduction == "sum" else total / ask.input.numel()

    def apart(self, net_output: Tensor, target: Tensor) -> Tensor:
        """Return the loss by two passes."""
        regions, mask = self._parts(target)
        dice: Tensor = self.dc(net_output, regions, loss_mask=mask)
        ce: Tensor = self.ce(net_output, regions.float())
        if mask is not None:
            ce = (ce * mask).sum() / torch.clip(mask.sum(), min=1e-8)
        return self.weight_ce * ce + self.weight_dice * dice

    def dtype_of(self, x: Tensor) -> torch.dtype:
        return torch.float32  # that of torch's cross-entropy of any input and a float32 target
