"""What a loss of a peer compares, and the sums over it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segloss_fast._check import as_weight, widen
from segloss_fast._impl import transforms_active
from segloss_fast.losses._declare import plain as unwrapped
from segloss_fast.ops.region_sums import RegionSums, region_sums

HALF = (torch.float16, torch.bfloat16)
PRODUCTS = ("tp", "pred_sq", "target_sq")  # in which a weight of both volumes stands twice


def plain(x: Tensor) -> Tensor:
    """Return a tensor without its subclass, such as MONAI's MetaTensor.

    Every operation of a subclass costs. The gradient reaches it all the same. Tensors of torch's
    own that stand for others, such as those that torch.export traces with, stay what they are.
    """
    if type(x) is Tensor:
        return x
    if not isinstance(x, Tensor):
        raise TypeError(f"input and target must be tensors, got {type(x).__name__}")
    found: Tensor = unwrapped(x)  # type: ignore[assignment]
    return found


def result_dtype(input: Tensor, *others: Tensor | None) -> torch.dtype:
    """Return the dtype in which a peer's loss over all of them comes out."""
    dtype = input.dtype
    for other in others:
        if other is not None and other.is_floating_point():
            dtype = torch.promote_types(dtype, other.dtype)
    if dtype in HALF and input.is_cuda and torch.is_autocast_enabled("cuda"):
        return torch.float32  # in which autocast takes sums
    return dtype


def comparable(value: int | None, labels: Tensor) -> int | None:
    """Return the number that torch compares labels with, which it wraps to integers of theirs.

    So -1 is 255 among uint8.
    """
    dtype = labels.dtype
    if value is None or dtype.is_floating_point or dtype == torch.bool:
        return value
    info = torch.iinfo(dtype)
    return (value - info.min) % (info.max - info.min + 1) + info.min


def can_look(x: Tensor) -> bool:
    """Whether values can be looked at without waiting for a GPU or breaking a graph."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not transforms_active()


def is_mask(weight: Tensor, square: Tensor | None = None) -> bool:
    """Whether weights are seen to be 0 and 1, which are their own squares."""
    if not can_look(weight) or weight.requires_grad or not weight.is_floating_point():
        return False
    return torch.equal(weight, weight * weight if square is None else square)


def flat(x: Tensor, first: int) -> Tensor:
    """Return the tensor with one to three dimensions from ``first`` on."""
    rank = x.dim() - first
    if rank == 0:
        return x.unsqueeze(-1)
    return x if rank <= 3 else x.flatten(first)


def _halves(*tensors: Tensor) -> list[Tensor]:
    """Return ``[B, 1, *S]``, all alike, as ``[B, 2, *S]`` with half of a side.

    Without a side that has a half they are ``[B, 2, *S]`` with all voxels twice.
    """
    shape = tensors[0].shape
    side = next((i for i in range(2, len(shape)) if shape[i] % 2 == 0), None)
    if side is None:
        return [flat(x.expand(-1, 2, *x.shape[2:]), 2) for x in tensors]
    if all(x.is_contiguous() for x in tensors):  # a cheaper view
        return [x.view(shape[0], 2, math.prod(shape[2:]) // 2) for x in tensors]
    split = [x.unflatten(side, (2, shape[side] // 2)).movedim(side, 1) for x in tensors]
    return [flat(x.squeeze(2), 2) for x in split]


@dataclass(frozen=True)
class Volumes:
    """A prediction that need not be activated yet, and a target that need not be one-hot yet.

    Attributes:
        input: ``[B, C, *S]``, S of any rank.
        activation: As for region_sums.
        target: Class indices ``[B, *S]``, or values ``[B, C, *S]``.
        first: How many of the first classes the loss leaves out.
        weight: ``[B, 1, *S]`` or ``[B, C, *S]``, as region_sums's ``voxel_weight``.
        ignore_index: Of class indices, or of the values of one class.
        dtype: Of the loss.
        of_both: Whether the weight is multiplied to activated input and target, each.
    """

    input: Tensor
    activation: str
    target: Tensor
    first: int = 0
    weight: Tensor | None = None
    ignore_index: int | None = None
    dtype: torch.dtype = torch.float32
    of_both: bool = False

    def sums(
        self,
        terms: Sequence[str],
        *,
        gamma: float | None = None,
        ce_activation: str | None = None,
        every: bool = False,
    ) -> RegionSums:
        """Return sums per item and class that has a share in the loss, float64 ``[B, C']``.

        Args:
            terms: As for region_sums.
            gamma: As for region_sums.
            ce_activation: As for region_sums.
            every: Whether the rows hold the classes that are left out, too.
        """
        options = {"terms": terms, "gamma": gamma, "ce_activation": ce_activation}
        if self.of_both:
            found = self._of_both(terms)
        elif self.input.shape[1] > 1 or self.target.dim() < self.input.dim():
            found = self._of_classes(options)
        else:
            found = self._of_values(options)
        return found if every else self.share(found)

    def share(self, sums: RegionSums) -> RegionSums:
        """Return sums without the classes that the loss leaves out."""
        if not self.first:
            return sums
        return RegionSums(sums.terms, sums.rows[:, :, self.first :], sums.constant)

    def may_be_negative(self) -> bool:
        """Whether the activated input can be below 0; looked at where that makes nobody wait."""
        if self.activation != "probabilities":
            return False
        if not can_look(self.input):
            return True
        return self.input.numel() > 0 and not bool(self.input.detach().amin() >= 0)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Volumes:
        """Return the volumes with a function of the input."""
        return dataclasses.replace(self, input=function(widen(self.input)))

    def _of_classes(self, options: dict[str, Any]) -> RegionSums:
        return region_sums(
            flat(self.input, 2),
            flat(self.target, 2 if self.target.dim() == self.input.dim() else 1),
            activation=self.activation,
            voxel_weight=None if self.weight is None else flat(self.weight, 2),
            ignore_index=self.ignore_index,
            **options,
        )

    def _of_values(self, options: dict[str, Any]) -> RegionSums:
        """Return sums of one class, whose target holds any values, as the peers' may.

        Those that region_sums takes of one class are in [0, 1], where rounding may leave it. Of two
        classes it takes any, and each half of the voxels is as good as a class.
        """
        if can_look(self.input):
            with contextlib.suppress(ValueError):  # what else is wrong is raised below as well
                return self._of_classes(options)
        weight = self.weight
        if self.ignore_index is not None:
            counted = (self.target != self.ignore_index).float()
            weight = counted if weight is None else counted * weight
        tensors = [self.input, self.target, *(() if weight is None else (weight,))]
        input, target, *weights = _halves(*tensors)
        found = region_sums(
            input,
            target,
            activation=self.activation,
            voxel_weight=weights[0] if weights else None,
            **options,
        )
        rows = found.rows
        odd = all(side % 2 for side in self.input.shape[2:])
        return RegionSums(found.terms, rows[:, :, :1] if odd else rows.sum(2, keepdim=True))

    def _of_both(self, terms: Sequence[str]) -> RegionSums:
        """Return sums where each of both volumes is multiplied by the weight."""
        assert self.weight is not None
        # Norms have the weight's size. Sums without one have it as it is.
        once = as_weight(self.weight)
        once = once.abs() if "tp_soft" in terms else once
        twice = once * once
        if is_mask(once, twice):
            return dataclasses.replace(self, weight=once, of_both=False).sums(terms, every=True)
        input = widen(self.input)  # half precision would round the gradient of each part
        parts = [
            dataclasses.replace(self, input=input, weight=weight, of_both=False).sums(
                chosen, every=True
            )
            for weight, chosen in (
                (once, [term for term in terms if term not in PRODUCTS]),
                (twice, [term for term in terms if term in PRODUCTS]),
            )
            if chosen
        ]
        names = tuple(name for part in parts for name in part.terms)
        return RegionSums(names, torch.cat([part.rows for part in parts]))
