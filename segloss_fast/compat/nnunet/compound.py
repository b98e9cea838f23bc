"""nnU-Net's compound losses: Dice and a cross-entropy, from one pass over the volume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from segloss_fast.compat._volumes import plain
from segloss_fast.compat.nnunet._sums import (
    Ask,
    FromSums,
    activation_of,
    entropy_dtype,
    is_labels,
    softmax_helper_dim1,
    sums_of,
)
from segloss_fast.compat.nnunet.cross_entropy import (
    RobustCrossEntropyLoss,
    TopKLoss,
    entropy_of,
    entropy_terms,
)
from segloss_fast.compat.nnunet.dice import TERMS, Dice, SoftDiceLoss
from segloss_fast.ops.region_sums import RegionSums

Keywords = Mapping[str, Any]


class Compound(FromSums, nn.Module):
    """``weight_ce * ce + weight_dice * dc``.

    Attributes:
        weight_ce: Factor of the cross-entropy.
        weight_dice: Factor of Dice.
        ce: The cross-entropy.
        dc: Dice; one that nnU-Net has compiled serves as it was before.
    """

    weight_ce: float
    weight_dice: float
    ce: nn.Module
    dc: nn.Module

    def forward(self, net_output: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``[B, C, *S]``.

        Args:
            net_output: ``[B, C, *S]``, not activated.
            target: Class indices ``[B, 1, *S]``; of DC_and_BCE_loss values ``[B, C, *S]``.
        """
        asked = self.ask(net_output, target)
        if asked is None:
            return self.apart(plain(net_output), plain(target))
        return self.values([asked], sums_of([asked]))[0]

    def apart(self, net_output: Tensor, target: Tensor) -> Tensor:
        """Return the loss where one pass cannot serve: of other modules, or of other targets."""
        raise NotImplementedError

    def dice(self) -> Dice | None:
        """Return Dice, if it is this module's; without torch.compile, which has nothing to gain."""
        found = getattr(self.dc, "_orig_mod", self.dc)
        return found if isinstance(found, Dice) else None

    def weighted(
        self,
        asks: Sequence[Ask],
        sums: Sequence[RegionSums],
        entropy: Callable[[RegionSums, Ask], Tensor],
    ) -> list[Tensor]:
        """Return the losses of levels, given what the cross-entropy is."""
        dice = self.dice()
        totals: list[Any] = [0] * len(asks)
        if self.weight_dice != 0 and dice is not None:
            tables = [each.rows[: len(TERMS)] for each in sums]
            totals = [self.weight_dice * value for value in dice.exact(asks, tables)]
        if self.weight_ce != 0:
            found = [entropy(each, ask) for ask, each in zip(asks, sums, strict=True)]
            totals = [
                total + self.weight_ce * value for total, value in zip(totals, found, strict=True)
            ]
        return [total.to(self.dtype_of(ask.input)) for total, ask in zip(totals, asks, strict=True)]

    def dtype_of(self, x: Tensor) -> torch.dtype:
        """Return that of the sum: Dice is float32, and so is half precision beside it."""
        if self.weight_ce == 0:
            return torch.float32
        dtype = entropy_dtype(x)
        return dtype if self.weight_dice == 0 else torch.promote_types(dtype, torch.float32)


class _OfLabels(Compound):
    """Dice and a cross-entropy of class indices."""

    ignore_label: int | None

    def _set(self, weight_ce: float, weight_dice: float, ignore_label: int | None) -> None:
        self.weight_dice = weight_dice
        self.weight_ce = weight_ce
        self.ignore_label = ignore_label

    def _masked(self, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return a target for Dice, and the mask of what counts."""
        if self.ignore_label is None:
            return target, None
        assert target.shape[1] == 1, (
            "an ignore label goes with class indices: target must have one channel, got shape "
            f"{list(target.shape)}"
        )
        mask = target != self.ignore_label
        return target.masked_fill(~mask, 0), mask

    def _apart(self, net_output: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted sum of two passes."""
        dice_target, mask = self._masked(target)
        total: Any = 0
        if self.weight_dice != 0:
            total = self.weight_dice * self.dc(net_output, dice_target, loss_mask=mask)
        if self.weight_ce != 0 and (mask is None or bool(mask.any())):
            total = self.weight_ce * self.ce(net_output, labels) + total
        return total  # type: ignore[no-any-return]


class DC_and_CE_loss(_OfLabels):
    """nnU-Net's DC_and_CE_loss, with its arguments.

    >>> loss = segloss_fast.compat.nnunet.DC_and_CE_loss({"smooth": 0.0}, {})
    >>> loss(torch.zeros(1, 2, 4), torch.tensor([[[0, 0, 1, 1]]]))
    tensor(0.1931)

    ``weight_ce * RobustCrossEntropyLoss + weight_dice * dice_class`` of the softmax, from one pass.
    Without a voxel that counts the cross-entropy is 0.

    Args:
        soft_dice_kwargs: Arguments of ``dice_class``.
        ce_kwargs: Arguments of RobustCrossEntropyLoss.
        weight_ce: Factor of the cross-entropy.
        weight_dice: Factor of Dice.
        ignore_label: Voxels with this label do not count.
        dice_class: The class of Dice; another one than this module's has a pass of its own.

    Raises:
        AssertionError: When called, if there is an ignore label and the target has several
            channels.
        ValueError: When called, if labels are out of range.
    """

    def __init__(
        self,
        soft_dice_kwargs: Keywords,
        ce_kwargs: Keywords,
        weight_ce: float = 1,
        weight_dice: float = 1,
        ignore_label: int | None = None,
        dice_class: Callable[..., nn.Module] = SoftDiceLoss,
    ) -> None:
        super().__init__()
        if ignore_label is not None:
            ce_kwargs = {**ce_kwargs, "ignore_index": ignore_label}
        self._set(weight_ce, weight_dice, ignore_label)
        self.ce = RobustCrossEntropyLoss(**ce_kwargs)
        self.dc = dice_class(apply_nonlin=softmax_helper_dim1, **soft_dice_kwargs)

    def ask(self, net_output: Tensor, target: Tensor) -> Ask | None:
        """Return the sums of both."""
        x, y = plain(net_output), plain(target).detach()
        dice, ce = self.dice(), self.ce
        if (
            dice is None
            or type(ce) is not RobustCrossEntropyLoss
            or ce.reduction == "none"
            or not (self.weight_ce or self.weight_dice)
            or not is_labels(x, y)
            or (self._left_out(x.shape[1]) is not None and ce.label_smoothing)
            or (self.ignore_label is not None and ce.ignore_index != self.ignore_label)
        ):
            return None
        activation = activation_of(dice.apply_nonlin, x.shape[1])
        if activation in (None, "probabilities"):
            return None
        terms = (
            *(TERMS if self.weight_dice else ()),
            *(entropy_terms(ce) if self.weight_ce else ()),
        )
        ce_activation = "softmax" if self.weight_ce else activation
        only = activation if self.weight_dice else "softmax"
        return Ask(
            x,
            y,
            str(only),
            tuple(dict.fromkeys(terms)),
            ce_activation=ce_activation,
            ignore_index=self.ignore_label,
        )

    def _left_out(self, classes: int) -> int | None:
        """Return the class that the cross-entropy ignores and Dice does not."""
        ignored = getattr(self.ce, "ignore_index", None)
        if self.ignore_label is not None or ignored is None or not 0 <= ignored < classes:
            return None
        return int(ignored)

    def values(self, asks: Sequence[Ask], sums: Sequence[RegionSums]) -> list[Tensor]:
        """Return the loss of each level."""
        ce = self.ce
        assert isinstance(ce, nn.CrossEntropyLoss)
        left_out = self._left_out(asks[0].classes)
        nothing = 0.0 if self.ignore_label is not None else None if left_out is None else torch.nan
        return self.weighted(
            asks, sums, lambda each, _: entropy_of(ce, each, left_out=left_out, nothing=nothing)
        )

    def apart(self, net_output: Tensor, target: Tensor) -> Tensor:
        """Return the loss by two passes."""
        return self._apart(net_output, target, target[:, 0])


class DC_and_topk_loss(_OfLabels):
    """nnU-Net's DC_and_topk_loss, with its arguments.

    >>> loss = segloss_fast.compat.nnunet.DC_and_topk_loss({"smooth": 0.0}, {"k": 25})
    >>> loss(torch.zeros(1, 2, 4), torch.tensor([[[0, 0, 1, 1]]]))
    tensor(0.1931)

    ``weight_ce * TopKLoss + weight_dice * SoftDiceLoss`` of the softmax.

    Args:
        soft_dice_kwargs: Arguments of SoftDiceLoss.
        ce_kwargs: Arguments of TopKLoss.
        weight_ce: Factor of TopK.
        weight_dice: Factor of Dice.
        ignore_label: Voxels with this label do not count (of TopK's voxels, they are some).

    Raises:
        AssertionError: When called, if there is an ignore label and the target has several
            channels.
        ValueError: When called, if labels are out of range.
    """

    def __init__(
        self,
        soft_dice_kwargs: Keywords,
        ce_kwargs: Keywords,
        weight_ce: float = 1,
        weight_dice: float = 1,
        ignore_label: int | None = None,
    ) -> None:
        super().__init__()
        if ignore_label is not None:
            ce_kwargs = {**ce_kwargs, "ignore_index": ignore_label}
        self._set(weight_ce, weight_dice, ignore_label)
        self.ce = TopKLoss(**ce_kwargs)
        self.dc = SoftDiceLoss(apply_nonlin=softmax_helper_dim1, **soft_dice_kwargs)

    def ask(self, net_output: Tensor, target: Tensor) -> Ask | None:
        """Return None: which voxels have a share is not known before a pass of its own."""
        return None

    def apart(self, net_output: Tensor, target: Tensor) -> Tensor:
        """Return the loss; without a voxel that counts TopK is 0 by itself."""
        dice, ce = self.dice(), self.ce
        if (
            self.ignore_label is None
            or dice is None
            or type(ce) is not TopKLoss
            or ce.ignore_index != self.ignore_label
            or not is_labels(net_output, target)
            or not ce.wanted(target)
        ):
            return self._apart(net_output, target, target)
        total: Any = 0
        if self.weight_dice != 0:
            asks = [replace(dice.ask(net_output, target), ignore_index=self.ignore_label)]
            total = self.weight_dice * dice.values(asks, sums_of(asks))[0]
        if self.weight_ce != 0:
            total = self.weight_ce * ce(net_output, target) + total
        return total  # type: ignore[no-any-return]
