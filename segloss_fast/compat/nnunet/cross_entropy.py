"""nnU-Net's cross-entropy losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segloss_fast.compat._volumes import flat, plain
from segloss_fast.compat.nnunet._sums import Ask, FromSums, entropy_dtype, sums_of
from segloss_fast.ops._voxels.labels import can_hold
from segloss_fast.ops._voxels.maps import row_dtype
from segloss_fast.ops.hardest_voxels import Rule, hardest_voxels
from segloss_fast.ops.region_sums import RegionSums, region_sums


def entropy_terms(ce: nn.CrossEntropyLoss) -> tuple[str, ...]:
    """Return the sums that a cross-entropy needs."""
    return ("target", "nll", "nll_all") if ce.label_smoothing else ("target", "nll")


def entropy_of(
    ce: nn.CrossEntropyLoss,
    sums: RegionSums,
    *,
    left_out: int | None = None,
    nothing: float | None = torch.nan,
) -> Tensor:
    """Return torch's cross-entropy of class indices, float64.

    Args:
        ce: With its weights, reduction (not "none") and smoothing.
        sums: Of the voxels that count.
        left_out: A class whose voxels do not count (without smoothing).
        nothing: What the mean over no voxel is, 0 or NaN, with the gradient 0; None if there are
            some.
    """
    nll, count = sums.nll.sum(0), sums.target.sum(0)
    everywhere = sums.nll_all.sum(0) if ce.label_smoothing else None
    if ce.weight is not None:
        weight = ce.weight.to(nll)
        nll, count = nll * weight, count * weight
        everywhere = None if everywhere is None else everywhere * weight
    if left_out is not None:
        nll, count = (torch.cat([row[:left_out], row[left_out + 1 :]]) for row in (nll, count))
    total, norm = nll.sum(), count.sum()
    if everywhere is not None:
        share = ce.label_smoothing / everywhere.numel()
        total = (1 - ce.label_smoothing) * total + share * everywhere.sum()
    if ce.reduction == "sum":
        return total
    if nothing is None:
        return total / norm
    empty = norm == 0  # without asking on the host
    mean = total / norm.masked_fill(empty, 1)
    return mean if nothing == 0 else torch.where(empty, nothing, mean)


class RobustCrossEntropyLoss(FromSums, nn.CrossEntropyLoss):
    """nnU-Net's RobustCrossEntropyLoss, with the arguments of ``torch.nn.CrossEntropyLoss``.

    >>> loss = segloss_fast.compat.nnunet.RobustCrossEntropyLoss()
    >>> loss(torch.zeros(1, 2, 4), torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]))
    tensor(0.6931)

    The target, of any dtype, may have a channel of its own: ``[B, 1, *S]`` or ``[B, *S]``.

    Raises:
        AssertionError: If the target has as many dimensions as the input, and several channels.
        ValueError: If labels are out of range.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``[B, C, *S]`` against class indices ``[B, 1, *S]`` or ``[B, *S]``."""
        input, target = plain(input), self._channel(input, plain(target).detach())
        asked = self.ask(input, target)
        if asked is None:
            return super().forward(input, target.long())
        return self.values([asked], sums_of([asked]))[0]

    @staticmethod
    def _channel(input: Tensor, target: Tensor) -> Tensor:
        if target.ndim != input.ndim:
            return target
        assert target.shape[1] == 1, (
            f"target must be [B, *S] or [B, 1, *S], got {list(target.shape)} for input of shape "
            f"{list(input.shape)}"
        )
        return target[:, 0]

    def ask(self, input: Tensor, target: Tensor) -> Ask | None:
        """Return the sums that the loss needs."""
        input, target = plain(input), self._channel(input, plain(target).detach())
        if not (
            self.reduction in ("mean", "sum")
            and input.dim() > 2
            and input.shape[1] > 1
            and target.shape == (input.shape[0], *input.shape[2:])
        ):
            return None
        return Ask(
            input,
            target[:, None],
            "softmax",
            entropy_terms(self),
            ignore_index=self.ignore_index,
        )

    def values(self, asks: Sequence[Ask], sums: Sequence[RegionSums]) -> list[Tensor]:
        """Return the loss of each level."""
        return [
            entropy_of(self, each).to(entropy_dtype(ask.input))
            for ask, each in zip(asks, sums, strict=True)
        ]


class TopKLoss(RobustCrossEntropyLoss):
    """nnU-Net's TopKLoss, with its arguments: the mean of the largest ``k`` percent.

    >>> loss = segloss_fast.compat.nnunet.TopKLoss(k=25)
    >>> x = torch.tensor([[[0.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]]])
    >>> loss(x, torch.tensor([[[0, 0, 0, 1]]]))
    tensor(2.1269)

    Of all voxels, those with the ``ignore_index`` among them, whose cross-entropy is 0. Voxels that
    are equal to the last one share what is left of the ``k`` percent.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        k: float = 10,
        label_smoothing: float = 0,
    ) -> None:
        super().__init__(weight, False, ignore_index, reduce=False, label_smoothing=label_smoothing)
        self.k = k

    def forward(self, inp: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``[B, C, *S]`` against class indices ``[B, 1, *S]``."""
        inp, target = plain(inp), plain(target).detach()[:, 0]
        wanted = self.wanted(target)
        fits = target.shape == (inp.shape[0], *inp.shape[2:]) and inp.dim() > 2
        one = inp.shape[1] == 1
        if self.label_smoothing or not fits or one or not 0 < wanted <= target.numel():
            each = nn.CrossEntropyLoss.forward(self, inp, target.long())
            return torch.topk(each.flatten(), wanted, sorted=False)[0].mean()
        x, labels = flat(inp, 2), flat(target, 1)
        field = self._hardest(x, labels)
        sums = region_sums(
            x,
            labels,
            terms=("nll",),
            voxel_weight=field,
            ignore_index=self.ignore_index,
        )
        nll = sums.nll.sum(0)
        total = nll.sum() if self.weight is None else (nll * self.weight.to(nll)).sum()
        return (total / wanted).to(entropy_dtype(inp))

    def wanted(self, target: Tensor) -> int:
        """Return how many voxels have a share."""
        return int(target.numel() * self.k / 100)

    def _hardest(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the share of each voxel in the ``k`` percent, ``[B, 1, *S]``.

        Ignored voxels count, with a cross-entropy of about 0.
        """
        weight, class_weight = None, None
        if can_hold(labels.dtype, self.ignore_index) and labels.dtype != torch.bool:
            ignored = labels == self.ignore_index
            weight = torch.ones_like(ignored, dtype=torch.float32)
            weight = weight.masked_fill_(ignored, 1e-30)[:, None]
            labels = labels.masked_fill(ignored, 0)
        if self.weight is not None:
            class_weight = self.weight.to(row_dtype(x.device))
        rule = Rule(float(self.k), "softmax", 0, class_weight)
        return hardest_voxels(x, labels, weight, rule)[0]

    def ask(self, input: Tensor, target: Tensor) -> Ask | None:
        """Return None: which voxels have a share is not known before a pass of its own."""
        return None
