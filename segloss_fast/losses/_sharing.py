"""Losses that are added share one pass over the volume: who asks for which sums, and for all."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from segloss_fast.losses._module import Loss
from segloss_fast.ops.region_sums import GAMMA_TERMS, WITHOUT_INPUT, RegionSums

Source = Callable[..., RegionSums]
WITH_LOGARITHM = ("nll", "nll_neg", "nll_all", "nll_pow", "focal", "focal_neg")


class _Asked(Exception):
    """Ends a loss where it asks for its sums, to know what it asks for."""


@dataclass
class _Pass:
    """One pass over the volume, for all who ask for sums of the same kind.

    ``activation``, ``ce_activation`` and ``gamma`` are None as long as no term depends on them.
    """

    options: dict[str, Any]
    activation: str | None = None
    ce_activation: str | None = None
    gamma: float | None = None
    terms: dict[str, None] = field(default_factory=dict)
    _sums: RegionSums | None = None

    def join(self, wish: _Pass) -> bool:
        """Take over what another one is for, where both can be the same pass."""
        names = ("activation", "ce_activation", "gamma")
        for name in names:
            own, other = getattr(self, name), getattr(wish, name)
            if own is not None and other is not None and own != other:
                return False
        merged = {name: getattr(self, name) or getattr(wish, name) for name in names[:2]}
        activated = {value == "probabilities" for value in merged.values() if value is not None}
        if self.options != wish.options or len(activated) > 1:
            return False
        for name in names:
            if getattr(self, name) is None:
                setattr(self, name, getattr(wish, name))
        self.terms |= wish.terms
        return True

    def serve(self, source: Source, input: Any, target: Any, **call: Any) -> RegionSums:  # noqa: ANN401
        """Be region_sums for one who asks: the first time for all."""
        if self._sums is None:
            activation = self.activation or self.ce_activation or call["activation"]
            self._sums = source(
                input,
                target,
                **self.options,
                activation=activation,
                ce_activation=self.ce_activation,
                gamma=self.gamma,
                voxel_weight=call["voxel_weight"],
                terms=tuple(self.terms),
            )
        terms, all_rows = tuple(call["terms"]), self._sums
        rows = torch.stack([getattr(all_rows, term) for term in terms])
        return RegionSums(terms, rows, all_rows.constant)


def sources(
    losses: Sequence[Loss], arguments: Sequence[Any], source: Source
) -> list[Source | None]:
    """Return what each loss asks for its sums: a pass that it shares, or None.

    Args:
        losses: They are called with the same arguments.
        arguments: Input, target, voxel weight.
        source: region_sums, or what stands for it.
    """
    found: list[Source | None] = [None] * len(losses)
    if torch.compiler.is_compiling():
        return found
    passes: list[_Pass] = []
    for place, loss in enumerate(losses):
        own = type(loss).forward is Loss.forward  # not one that a user wrote over it
        wish = _ask(loss, arguments) if loss.over_sums and own else None
        if wish is None:
            continue
        chosen = next((one for one in passes if one.join(wish)), None)
        if chosen is None:
            passes.append(chosen := wish)
        found[place] = functools.partial(chosen.serve, source)
    return found


def _ask(loss: Loss, arguments: Sequence[Any]) -> _Pass | None:
    """Return what a loss asks for, None if it asks for nothing (an error of its own follows)."""
    asked: list[dict[str, Any]] = []

    def listen(input: Any, target: Any, **call: Any) -> RegionSums:  # noqa: ANN401
        asked.append(call)
        raise _Asked

    with contextlib.suppress(_Asked):
        loss.call(*arguments, _source=listen)
    if not asked:
        return None
    (call,) = asked
    terms = set(call["terms"])
    logarithms = not terms.isdisjoint(WITH_LOGARITHM)
    plain = not terms <= {*WITH_LOGARITHM, *WITHOUT_INPUT}
    own = call["ce_activation"] or call["activation"]
    return _Pass(
        {name: call[name] for name in ("ignore_index", "impl")},
        call["activation"] if plain else None,
        own if logarithms else None,
        call["gamma"] if not terms.isdisjoint(GAMMA_TERMS) else None,
        dict.fromkeys(call["terms"]),
    )
