"""Deep supervision: a loss over several levels of different size, whose sums share one launch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from segloss_fast._check import check_input, check_number
from segloss_fast.losses._declare import plain
from segloss_fast.losses._module import Loss
from segloss_fast.ops.region_sums import RegionSums, region_sums, region_sums_multi

if TYPE_CHECKING:
    from segloss_fast.losses._keywords import Weights

Levels = Tensor | Sequence[Tensor]


def deep_supervision_loss(
    inputs: Levels,
    targets: Levels,
    voxel_weights: Levels | None = None,
    *,
    loss: Loss,
    weights: Weights | None = None,
) -> Tensor:
    """Functional form of :class:`DeepSupervisionLoss`."""
    _check_loss(loss)
    levels = _Levels(inputs, targets, voxel_weights, _check_level_weights(weights))
    values = [
        weight
        * loss.call(
            levels.inputs[level],
            levels.targets[level],
            levels.voxel_weights[level] if levels.voxel_weights else None,
            **levels.changes(level, loss),
        )
        for level, weight in enumerate(levels.weights)
    ]
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _check_loss(loss: object) -> None:
    if not isinstance(loss, Loss):
        raise TypeError(f"loss must be a loss of segloss_fast, got {type(loss).__name__}")


def _check_level_weights(weights: object) -> tuple[float, ...] | None:
    """Return the weights as Python's numbers; raise unless they are finite and not all 0."""
    if isinstance(weights, Tensor):
        weights = weights.tolist()
    weights = plain(weights)
    if weights is None:
        return None
    if isinstance(weights, str) or not isinstance(weights, Sequence):
        raise TypeError(f"weights must hold a number per level, got {type(weights).__name__}")
    for weight in weights:
        check_number("weights", weight)
    if not any(weights):
        raise ValueError(f"weights must not all be 0, got {list(weights)}")
    return tuple(weights)


class _Levels:
    """The levels that count, and their sums, which the first that is asked for computes for all."""

    def __init__(
        self,
        inputs: Levels,
        targets: Levels,
        voxel_weights: Levels | None,
        weights: Sequence[float] | None,
    ) -> None:
        every = _as_list("inputs", inputs)
        for x in every:
            check_input(x)
        chosen = _level_weights(len(every)) if weights is None else list(weights)
        if len(chosen) != len(every):
            raise ValueError(f"weights must hold {len(every)} numbers, one per input, got {chosen}")
        used = [level for level, weight in enumerate(chosen) if weight != 0]
        self.largest = every[0].shape[2:]
        self.inputs = [every[level] for level in used]
        self.weights = [chosen[level] for level in used]
        self.targets = _per_level("targets", targets, every, used)
        self.voxel_weights = None
        if voxel_weights is not None:
            self.voxel_weights = _per_level("voxel_weights", voxel_weights, every, used)
        self._known: list[tuple[dict[str, object], list[RegionSums]]] = []

    def sums(
        self,
        level: int,
        input: Tensor,
        target: Tensor,
        *,
        voxel_weight: Tensor | None,
        **options: object,
    ) -> RegionSums:
        """Be region_sums of a level, from one launch for all levels that ask for the same.

        A loss may ask for sums of other tensors, such as its own weights: those are its own.
        """
        weight = self.voxel_weights[level] if self.voxel_weights else None
        if not (
            input is self.inputs[level] and target is self.targets[level] and voxel_weight is weight
        ):
            return region_sums(input, target, voxel_weight=voxel_weight, **options)  # type: ignore[arg-type]
        for known, sums in self._known:
            if known == options:
                return sums[level]
        sums = region_sums_multi(
            self.inputs,
            self.targets,
            voxel_weights=self.voxel_weights,
            **options,  # type: ignore[arg-type]
        )
        self._known.append((options, sums))
        return sums[level]

    def changes(self, level: int, loss: Loss) -> dict[str, object]:
        """Return the keywords that the loss has at this level alone."""
        source = {"_source": functools.partial(self.sums, level)} if loss.shares_sums else {}
        return {**self._spacing(level, loss), **source}

    def _spacing(self, level: int, loss: Loss) -> dict[str, object]:
        """Return the spacing of a level's voxels, which cover what those of the first level do."""
        if "spacing" not in loss.keywords:
            return {}
        size = self.inputs[level].shape[2:]
        given = loss.keywords["spacing"]
        given = 1.0 if given is None else given
        row = given if isinstance(given, tuple) else (given,) * len(size)
        if size == self.largest or len(row) != len(size):
            return {}  # a wrong number of axes is the loss's own error
        return {
            "spacing": tuple(s * a / b for s, a, b in zip(row, self.largest, size, strict=True))
        }


def _as_list(name: str, tensors: object) -> list[Tensor]:
    if isinstance(tensors, Tensor):
        return [tensors]
    if not isinstance(tensors, (list, tuple)) or not all(isinstance(t, Tensor) for t in tensors):
        raise TypeError(f"{name} must be a tensor, or a list of them, got {type(tensors).__name__}")
    if not tensors:
        raise ValueError(f"{name} must hold at least one tensor")
    return list(tensors)


def _level_weights(levels: int) -> list[float]:
    """Return 1, 1/2, 1/4, ... normalised to the sum 1."""
    total = sum(0.5**level for level in range(levels))
    return [0.5**level / total for level in range(levels)]


def _per_level(
    name: str, tensors: Levels, inputs: Sequence[Tensor], used: Sequence[int]
) -> list[Tensor]:
    """Return a tensor for each level that counts: as given, or one resized."""
    if isinstance(tensors, Tensor):
        return [_nearest(tensors, inputs[level].shape[2:]) for level in used]
    given = _as_list(name, tensors)
    if len(given) != len(inputs):
        raise ValueError(f"{name} must hold {len(inputs)} tensors, one per input, got {len(given)}")
    return [given[level] for level in used]


def _nearest(tensor: Tensor, size: Sequence[int]) -> Tensor:
    """Return the values nearest to the centres of the voxels of another size.

    A view where each side is a multiple of the new one. What cannot be resized is returned as it
    is, for the loss to name what it expected.
    """
    first = tensor.dim() - len(size)
    if first not in (1, 2) or tensor.numel() == 0 or 0 in size:
        return tensor
    for axis, new in enumerate(size, first):
        old = tensor.shape[axis]
        step = old // new
        if old == step * new:
            index: list[slice] = [slice(None)] * axis
            tensor = tensor[(*index, slice(step // 2, None, step))]
        else:
            centres = (2 * torch.arange(new, device=tensor.device) + 1) * old // (2 * new)
            tensor = tensor.index_select(axis, centres)
    return tensor


class DeepSupervisionLoss(nn.Module):
    """The weighted sum of a loss over levels of different size, as a decoder returns them.

    >>> loss = segloss_fast.DeepSupervisionLoss(segloss_fast.DiceLoss())
    >>> loss([torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2)], torch.zeros(1, 4, 4))
    tensor(0.6667)

    ``forward(inputs, targets, voxel_weights=None)`` takes a list of ``[B, C, *S]``, the largest
    first, B and C the same; one tensor alone is one level. ``targets`` is one target, whose nearest
    voxels (to the centres, as MONAI's nearest-exact) are taken for smaller levels, or a list of one
    per level; and so are ``voxel_weights``. A level of weight 0 is not computed. The sums of all
    levels come from one call of :func:`segloss_fast.region_sums_multi`, which asks for inputs of
    one dtype; losses that need more than sums run level by level. ``spacing`` is that of the first
    level; the others' is larger by what they are smaller.
    Source: Lee et al. 2015, https://arxiv.org/abs/1409.5185; weights as in nnU-Net,
    but there the smallest level gets none.

    Args:
        loss: A loss of this package.
        weights: One number per level; if None 1, 1/2, 1/4, ... normalised to the sum 1.

    Raises:
        TypeError: If loss is none of this package, or weights hold something else than numbers.
        ValueError: If weights are not finite, or all 0.
    """

    def __init__(self, loss: Loss, weights: Weights | None = None) -> None:
        super().__init__()
        self.loss = loss
        self.weights = weights

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401
        """Set an attribute, the weights with the checks of the constructor."""
        if name == "weights":
            value = _check_level_weights(value)
        elif name == "loss":
            _check_loss(value)
        super().__setattr__(name, value)

    def forward(
        self, inputs: Levels, targets: Levels, voxel_weights: Levels | None = None
    ) -> Tensor:
        """Return the loss.

        Args:
            inputs: ``[B, C, *S]``, one or a list.
            targets: Class indices ``[B, *S]`` or ``[B, 1, *S]``, or values ``[B, C, *S]``; one, or
                a list of one per input.
            voxel_weights: ``[B, 1, *S]`` or ``[B, C, *S]``; one, or a list of one per input.

        Returns:
            A scalar, or the rows of the loss for its reduction "none".

        Raises:
            TypeError: If an argument is neither a tensor nor a list of tensors.
            ValueError: If the numbers of tensors or weights differ, or as the loss.
        """
        return deep_supervision_loss(
            inputs, targets, voxel_weights, loss=self.loss, weights=self.weights
        )

    def extra_repr(self) -> str:
        return "" if self.weights is None else f"weights={list(self.weights)}"
