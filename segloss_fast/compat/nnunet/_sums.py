"""What nnU-Net's losses compare, and the sums over it, of one level or of many in one launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segloss_fast.compat._volumes import Volumes, flat, plain
from segloss_fast.ops.region_sums import RegionSums, region_sums_multi


def softmax_helper_dim1(x: Tensor) -> Tensor:
    """Return the softmax over the classes, as nnU-Net's function of this name.

    >>> segloss_fast.compat.nnunet.softmax_helper_dim1(torch.zeros(1, 2, 1))
    tensor([[[0.5000],
             [0.5000]]])
    """
    return torch.softmax(x, 1)


def activation_of(nonlin: Callable[[Tensor], Tensor] | None, classes: int) -> str | None:
    """Return region_sums's name of what is applied to the network's output; None if it has none."""
    if nonlin is None:
        return "probabilities"
    if nonlin is torch.sigmoid or isinstance(nonlin, nn.Sigmoid):
        return "sigmoid"
    softmax = (
        nonlin.dim == 1
        if isinstance(nonlin, nn.Softmax)
        else getattr(nonlin, "__name__", "") == "softmax_helper_dim1"
    )
    return "softmax" if softmax and classes > 1 else None


@dataclass(frozen=True)
class Ask:
    """The sums that a loss is formed from.

    Attributes:
        input: ``[B, C, *S]``.
        target: Class indices ``[B, 1, *S]``, or values ``[B, C, *S]``.
        activation: As for region_sums.
        terms: As for region_sums; none if the loss has no share of anything.
        ce_activation: As for region_sums.
        weight: ``[B, 1, *S]`` or ``[B, C, *S]``, as region_sums's ``voxel_weight``.
        ignore_index: Of class indices.
    """

    input: Tensor
    target: Tensor
    activation: str
    terms: tuple[str, ...]
    ce_activation: str | None = None
    weight: Tensor | None = None
    ignore_index: int | None = None

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.input.shape[1]

    def sums(self) -> RegionSums:
        """Return the sums per item and class, float64 ``[B, C]``."""
        volumes = Volumes(
            self.input,
            self.activation,
            self._labels(),
            weight=self.weight,
            ignore_index=self.ignore_index,
        )
        return volumes.sums(self.terms, ce_activation=self.ce_activation, every=True)

    def _labels(self) -> Tensor:
        """Return truth values of one class as labels, the rest as it is."""
        t = self.target
        return t[:, 0] if t.shape[1] == 1 and (self.classes > 1 or t.dtype == torch.bool) else t

    def kind(self) -> tuple[object, ...]:
        """Return what levels must have alike to share a launch."""
        weight = None if self.weight is None else (self.weight.dtype, self.weight.shape[1])
        return (
            *(self.activation, self.terms, self.ce_activation, self.ignore_index, weight),
            *(self.input.dtype, self.input.device, self.classes, self.input.dim()),
            *(self.target.dtype, self.target.shape[1]),
        )


def sums_of(asks: Sequence[Ask]) -> list[RegionSums]:
    """Return the sums of each, of all in one launch where they are alike."""
    first = asks[0]
    values = first.classes == 1 and first.target.dtype != torch.bool
    if len(asks) == 1 or values or len({ask.kind() for ask in asks}) > 1:
        return [ask.sums() for ask in asks]
    labels = [ask._labels() for ask in asks]
    dense = labels[0].dim() == first.input.dim()
    return region_sums_multi(
        [flat(ask.input, 2) for ask in asks],
        [flat(target, 2 if dense else 1) for target in labels],
        activation=first.activation,
        ce_activation=first.ce_activation,
        terms=first.terms,
        voxel_weights=None
        if first.weight is None
        else [flat(ask.weight, 2) for ask in asks if ask.weight is not None],
        ignore_index=first.ignore_index,
    )


class FromSums:
    """A loss that can be formed from sums over the volume, in one pass.

    A subclass says with ``ask`` what sums it needs of its arguments, None if its options or they
    are of a kind that sums cannot serve, and with ``values`` what the losses are, given the sums of
    several levels.
    """

    def ask(self, *arguments: Any) -> Ask | None:  # noqa: ANN401
        """Return the sums that the loss needs of the arguments of a call."""
        raise NotImplementedError

    def values(self, asks: Sequence[Ask], sums: Sequence[RegionSums]) -> list[Tensor]:
        """Return the loss of each level."""
        raise NotImplementedError

    def levels(self, calls: Sequence[tuple[Any, ...]]) -> list[Tensor] | None:
        """Return the losses of several calls from one pass; None where sums do not serve all."""
        asks = []
        for arguments in calls:
            asked = self.ask(*arguments)
            if asked is None:
                return None
            asks.append(asked)
        return self.values(asks, sums_of(asks))


def as_channels(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return input and target without subclasses and the target's gradient, of equal rank."""
    x, y = plain(x), plain(y).detach()
    if y.dim() != x.dim():
        y = y.view((y.shape[0], 1, *y.shape[1:]))
    return x, y


def is_labels(x: Tensor, y: Tensor) -> bool:
    """Whether a target of the input's rank holds class indices."""
    return x.shape != y.shape and y.shape == (x.shape[0], 1, *x.shape[2:])


def entropy_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of torch's cross-entropy of an input."""
    if x.dtype in (torch.float16, torch.bfloat16) and torch.is_autocast_enabled(x.device.type):
        return torch.float32
    return x.dtype
