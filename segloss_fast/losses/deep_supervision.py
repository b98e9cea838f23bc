"""Deep supervision: a loss over several levels of different size, whose sums share one launch."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from segloss_fast._check import check_input
from segloss_fast.losses._levels import (
    Levels,
    Maps,
    as_list,
    check_level_weights,
    check_sizes,
    level_weights,
    maps_of,
    per_level,
)
from segloss_fast.losses._module import Loss
from segloss_fast.losses._planned import value_of_levels
from segloss_fast.losses._sharing import Source, sources
from segloss_fast.losses.weighted_sum import (
    WeightedSum,
    add,
    call,
    check_maps,
    parts_of,
    planned,
    taken_by,
)
from segloss_fast.ops.region_sums import RegionSums, region_sums, region_sums_multi

if TYPE_CHECKING:
    from segloss_fast.losses._keywords import Weights


def deep_supervision_loss(
    inputs: Levels,
    targets: Levels,
    voxel_weights: Levels | None = None,
    *,
    loss: Loss | WeightedSum,
    weights: Weights | str | None = None,
    **maps: Maps,
) -> Tensor:
    """Functional form of :class:`DeepSupervisionLoss`."""
    parts = parts_of(loss)
    check_maps([part for _, part in parts], maps)
    levels = _Levels(inputs, targets, voxel_weights, check_level_weights(weights), maps)
    planned_value = levels.by_plan(parts)
    if planned_value is not None:
        return planned_value
    factors, losses = [factor for factor, _ in parts], [part for _, part in parts]
    values = []
    for level in range(len(levels.weights)):
        arguments = levels.arguments(level)
        shared: list[Source | None] = [None]
        if len(losses) > 1:
            shared = sources(losses, arguments, functools.partial(levels.sums, level))
        found = [
            call(part, arguments, source, levels.changes(level, part))
            for part, source in zip(losses, shared, strict=True)
        ]
        values.append(add(factors, found) if isinstance(loss, WeightedSum) else found[0])
    return add(levels.weights, values)


class _Levels:
    """The levels that count, and their sums, which the first that is asked for computes for all."""

    def __init__(
        self,
        inputs: Levels,
        targets: Levels,
        voxel_weights: Levels | None,
        weights: Sequence[float] | str | None,
        maps: Mapping[str, Maps],
    ) -> None:
        every = as_list("inputs", inputs)
        for x in every:
            check_input(x)
        check_sizes(inputs, every, targets, voxel_weights)
        chosen = level_weights(len(every), weights)
        if len(chosen) != len(every):
            raise ValueError(f"weights must hold {len(every)} numbers, one per input, got {chosen}")
        used = [level for level, weight in enumerate(chosen) if weight != 0]
        self.largest = every[0].shape[2:]
        self.inputs = [every[level] for level in used]
        self.weights = [chosen[level] for level in used]
        self.targets = per_level("targets", targets, every, used)
        self.voxel_weights = None
        if voxel_weights is not None:
            self.voxel_weights = per_level("voxel_weights", voxel_weights, every, used)
        self.maps = {name: maps_of(name, given, len(every)) for name, given in maps.items()}
        self.maps = {name: [of[level] for level in used] for name, of in self.maps.items()}
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

    def by_plan(self, parts: Sequence[tuple[float, Loss]]) -> Tensor | None:
        """Return the loss of all levels from one launch and one program, None where it has none."""
        if torch.compiler.is_compiling() or any("spacing" in loss.keywords for _, loss in parts):
            return None  # spacing is another one at each level
        every = [self.arguments(level) for level in range(len(self.weights))]
        return value_of_levels(planned(parts), every, self.weights)

    def arguments(self, level: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the input, target and voxel weight of a level."""
        weight = self.voxel_weights[level] if self.voxel_weights else None
        return self.inputs[level], self.targets[level], weight

    def changes(self, level: int, loss: Loss) -> dict[str, object]:
        """Return the keywords that the loss has at this level alone."""
        source = {"_source": functools.partial(self.sums, level)} if loss.shares_sums else {}
        return {**self._spacing(level, loss), **source, **self._maps(level, loss)}

    def _maps(self, level: int, loss: Loss) -> dict[str, object]:
        """Return the maps of a level that the loss takes, and what it does where one is missing."""
        found: dict[str, object] = {}
        for name, of_level in self.maps.items():
            if name not in taken_by(loss):
                continue
            given = of_level[level]
            found |= loss.without_map.get(name, {}) if given is None else {name: given}
        return found

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


class DeepSupervisionLoss(nn.Module):
    """The weighted sum of a loss over levels of different size, as a decoder returns them.

    >>> loss = segloss_fast.DeepSupervisionLoss(segloss_fast.DiceLoss())
    >>> loss([torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, 2)], torch.zeros(1, 4, 4))
    tensor(0.6667)

    ``forward(inputs, targets, voxel_weights=None, **maps)`` takes a list of ``[B, C, *S]``, the
    largest first, B and C the same; one tensor alone is one level. ``targets`` is one target, whose
    nearest voxels (to the centres, as MONAI's nearest-exact) are taken for smaller levels, or a
    list of one per level; and so are ``voxel_weights``. A level of weight 0 is not computed. The
    sums of all levels come from one call of :func:`segloss_fast.region_sums_multi`, which asks for
    inputs of one dtype; losses that need more than sums run level by level. ``spacing`` is that of
    the first level; the others' is larger by what they are smaller. ``maps``, such as ``skeleton``
    or ``target_field``, are lists of one per level, with None where there is none: there the loss
    computes it, or leaves out what it is for.
    Source: Lee et al. 2015, https://arxiv.org/abs/1409.5185.

    Args:
        loss: A loss of this package, or a weighted sum of some.
        weights: One number per level; if None 1, 1/2, 1/4, ... normalised to the sum 1; if
            ``"nnunet"`` the same, but 0 for the smallest of several levels.

    Raises:
        TypeError: If loss is none of this package, or weights hold something else than numbers.
        ValueError: If weights are not finite, or all 0, or another name.
    """

    def __init__(self, loss: Loss | WeightedSum, weights: Weights | str | None = None) -> None:
        super().__init__()
        self.loss = loss
        self.weights = weights

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401
        """Set an attribute, the weights with the checks of the constructor."""
        if name == "weights":
            value = check_level_weights(value)
        elif name == "loss":
            parts_of(value)  # raises unless it is one
        super().__setattr__(name, value)

    def forward(
        self,
        inputs: Levels,
        targets: Levels,
        voxel_weights: Levels | None = None,
        **maps: Maps,
    ) -> Tensor:
        """Return the loss.

        Args:
            inputs: ``[B, C, *S]``, one or a list.
            targets: Class indices ``[B, *S]`` or ``[B, 1, *S]``, or values ``[B, C, *S]``; one, or
                a list of one per input.
            voxel_weights: ``[B, 1, *S]`` or ``[B, C, *S]``; one, or a list of one per input.
            **maps: For the losses whose ``forward`` has an argument of this name, a list of one per
                input, each a tensor or None; a tensor alone is the first input's.

        Returns:
            A scalar, or the rows of the loss for its reduction "none".

        Raises:
            TypeError: If an argument is neither a tensor nor a list of tensors, or if no loss takes
                a map.
            ValueError: If the numbers of tensors or weights differ, if one target for all levels
                does not fit the first input, if an input is larger than the one before, or as the
                loss. Heads that are stacked in one tensor go in as ``inputs.unbind(1)``.
        """
        return deep_supervision_loss(
            inputs, targets, voxel_weights, loss=self.loss, weights=self.weights, **maps
        )

    def extra_repr(self) -> str:
        if self.weights is None or isinstance(self.weights, str):
            return "" if self.weights is None else f"weights={self.weights!r}"
        return f"weights={list(self.weights)}"
