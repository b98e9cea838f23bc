"""Sums of losses: ``0.5 * DiceCELoss() + HausdorffDTLoss()``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segloss_fast._check import check_number
from segloss_fast.losses._module import Addable, Loss
from segloss_fast.losses._planned import Call, value_of
from segloss_fast.losses._sharing import Source, sources
from segloss_fast.ops.region_sums import region_sums

ARGUMENTS = ("input", "target", "voxel_weight")


class WeightedSum(Addable, nn.Module):
    """The weighted sum of losses, as ``+`` and ``*`` make it.

    >>> loss = 0.5 * segloss_fast.DiceLoss() + 2 * segloss_fast.CrossEntropyLoss()
    >>> loss(torch.zeros(1, 2, 4), torch.tensor([[0, 0, 1, 1]]))
    tensor(1.6363)

    ``forward(input, target, voxel_weight=None, **maps)`` hands ``maps``, such as ``target_field``,
    to the losses that take them. Losses that are formed from sums over the volume (all Dice,
    Tversky, cross-entropy and focal losses) share one pass over it, where their options allow it;
    under torch.compile each has its own. Hooks of those that share one do not run. Works in
    :class:`segloss_fast.DeepSupervisionLoss`.

    Args:
        losses: Losses of this package; those of a WeightedSum are taken over.
        weights: A finite number per loss, all 1 if None. Can be read and set, to anneal.

    Raises:
        TypeError: If something is no loss of this package, or a weight is no number.
        ValueError: If there is no loss, or another number of weights.
    """

    def __init__(
        self, losses: Sequence[Loss | WeightedSum], weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        factors = [1.0] * len(losses) if weights is None else list(weights)
        if len(factors) != len(losses) or not losses:
            raise ValueError(
                f"weights must hold {len(losses)} numbers, one per loss, got {len(factors)}"
                if losses
                else "losses must hold at least one loss"
            )
        parts: list[tuple[float, Loss]] = []
        for factor, loss in zip(factors, losses, strict=True):
            check_number("weights", factor)
            parts += [(factor * weight, part) for weight, part in parts_of(loss)]
        self.losses = nn.ModuleList(part for _, part in parts)
        self.weights = [weight for weight, _ in parts]

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401
        """Set an attribute, the weights with the checks of the constructor."""
        if name == "weights":
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise TypeError(f"weights must hold a number per loss, got {type(value).__name__}")
            for weight in value:
                check_number("weights", weight)
            value = [float(weight) for weight in value]
            if len(value) != len(self.losses):
                raise ValueError(
                    f"weights must hold {len(self.losses)} numbers, one per loss, got {len(value)}"
                )
        super().__setattr__(name, value)

    def parts(self) -> Iterator[tuple[float, Loss]]:
        """Yield the losses with their weights."""
        for weight, loss in zip(self.weights, self.losses, strict=True):
            assert isinstance(loss, Loss)
            yield weight, loss

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        voxel_weight: Tensor | None = None,
        **maps: Tensor,
    ) -> Tensor:
        """Return the sum.

        Args:
            input: ``[B, C, *S]``.
            target: Class indices ``[B, *S]`` or ``[B, 1, *S]``, or values ``[B, C, *S]``.
            voxel_weight: ``[B, 1, *S]`` or ``[B, C, *S]``.
            **maps: For the losses whose ``forward`` has an argument of this name.

        Returns:
            A scalar, or the sum of the losses' rows for their reduction "none".

        Raises:
            TypeError: If no loss takes a map, or as the losses.
            ValueError: If losses that need different maps take the same one, if rows of different
                shapes are to be added, or as the losses.
        """
        losses = [loss for _, loss in self.parts()]
        check_maps(losses, maps)
        if not maps and not torch.compiler.is_compiling():
            found = value_of(planned(list(self.parts())), (input, target, voxel_weight))
            if found is not None:
                return found
        shared = sources(losses, (input, target, voxel_weight), region_sums)
        values = []
        for loss, source in zip(losses, shared, strict=True):
            own = {name: value for name, value in maps.items() if name in taken_by(loss)}
            values.append(call(loss, (input, target, voxel_weight), source, own))
        return add(self.weights, values)

    def extra_repr(self) -> str:
        return f"weights={self.weights}"


def planned(parts: Sequence[tuple[float, Loss]]) -> Call:
    """Return a weighted sum of losses as what is to be called, for a plan of it.

    Its weights are an argument of the plan: they may change with every call.
    """
    every = [loss for _, loss in parts]
    # Not one whose forward a user wrote.
    calls = [loss.planned() for loss in every if type(loss).forward is Loss.forward]
    whole = len(calls) == len(every) and all(loss.over_sums for loss in every)
    kinds = [call.kind for call in calls]
    kind = tuple(kinds) if whole and None not in kinds else None
    if len(calls) == 1 and parts[0][0] == 1:
        return calls[0]._replace(kind=kinds[0] if whole else None)
    keywords: dict[str, Any] = {
        f"{name} of {place}": given
        for place, call in enumerate(calls)
        for name, given in call.keywords.items()
        if isinstance(given, Tensor)
    }
    keywords["weights"] = torch.tensor([weight for weight, _ in parts], dtype=torch.float64)

    def function(*tensors: Any, _source: Source, weights: Tensor, **others: Tensor) -> Tensor:  # noqa: ANN401
        shared = sources(every, tensors, _source)
        values = []
        for place, loss in enumerate(every):
            own = {
                n.removesuffix(f" of {place}"): t
                for n, t in others.items()
                if n.endswith(f" of {place}")
            }
            values.append(loss.call(*tensors, **own, _source=shared[place]))
        return add(
            [weight.to(of.dtype) for weight, of in zip(weights, values, strict=True)], values
        )

    return Call(function, keywords, tuple(call.name for call in calls), kind)


def parts_of(loss: object) -> list[tuple[float, Loss]]:
    """Return the losses that a loss is the weighted sum of.

    Raises:
        TypeError: If it is none of this package.
    """
    if isinstance(loss, WeightedSum):
        return list(loss.parts())
    if isinstance(loss, Loss):
        return [(1.0, loss)]
    raise TypeError(f"loss must be a loss of segloss_fast, got {type(loss).__name__}")


def taken_by(loss: Loss) -> list[str]:
    """Return the names of the arguments that a loss takes besides input and target."""
    return list(inspect.signature(loss.forward).parameters)[2:]


def check_maps(losses: Sequence[Loss], maps: Mapping[str, Any]) -> None:
    """Raise unless each map is for some losses, which mean the same by it."""
    for name in maps:
        takers = [loss for loss in losses if name in taken_by(loss)]
        if not takers or name in ARGUMENTS:
            names = ", ".join(type(loss).__name__ for loss in losses)
            raise TypeError(f"none of {names} takes {name!r}")
        if len({loss.field_kind for loss in takers}) > 1:
            names = " and ".join(type(loss).__name__ for loss in takers)
            raise ValueError(f"{names} take different kinds of {name}: call them one by one")


def call(
    loss: Loss, arguments: Sequence[Any], source: Source | None, others: dict[str, Any]
) -> Tensor:
    """Call a loss, with a source of its sums if there is one; else as a module, with its hooks."""
    if source is None and not any(name in others for name in ("_source", "spacing")):
        result: Tensor = loss(*arguments, **others)
        return result
    if source is not None:
        others = {**others, "_source": source}
    return loss.call(*arguments, **others)


def add(weights: Sequence[float | Tensor], values: Sequence[Tensor]) -> Tensor:
    """Return the weighted sum of values of one shape."""
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1:
        raise ValueError(
            f"losses must have the same reduction and rows to be added, got {sorted(shapes)}"
        )
    total = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = total + weight * value
    return total
