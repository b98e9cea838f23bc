"""Losses over sums without their formula: it is traced at the first call of a kind.

A loss is a function of an input, a target, and keywords, that asks for sums over the volume and
makes a number of them. All but the sums depends on the keywords and on what kind of tensors they
come with alone, so that it is done once: the checks of the keywords, and the formula, which is
traced into a program (:mod:`segloss_fast.ops._formula`). A plan is what is left to do.

A loss needs nothing for it but that it takes its sums from ``_source`` (see Voxel), as evaluate
does. Where it looks at the volume in other ways, or at numbers, there is no plan, and it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segloss_fast._impl import transforms_active
from segloss_fast.ops._formula import Untraceable, trace, why_not
from segloss_fast.ops.region_sums import Formula, Options, RegionSums, options_of, region_formula

MOST_PLANS = 2048
PLAIN = (float, int, str, bool, type(None))
TENSORS = (Tensor, nn.Parameter)

_plans: dict[Hashable, Plan | None] = {}


@dataclass(frozen=True)
class Plan:
    """What is left to do of a loss.

    Attributes:
        formula: The sums and what is made of them.
        names: The keywords that are arguments of the program.
    """

    formula: Formula
    names: tuple[str, ...]


def value(
    function: Callable[..., Tensor],
    tensors: tuple[Any, Any, Any],
    keywords: Mapping[str, Any],
    *frozen: Hashable,
) -> Tensor | None:
    """Return the loss by its plan, None where it has none and must run itself.

    Args:
        function: The loss; called with the other arguments, and ``_source`` where it is traced.
        tensors: Its input, target and voxel weight.
        keywords: As it takes them.
        frozen: What freeze makes of them, or of some and the others.

    Raises:
        As region_sums.
    """
    plan = plan_of(function, tensors, keywords, *frozen)
    if plan is None:
        return None
    input, target, voxel_weight = tensors
    weights = () if voxel_weight is None else (voxel_weight,)
    arguments = [keywords[name] for name in plan.names]
    return region_formula(plan.formula, (input,), (target,), weights, arguments)


def plan_of(
    function: Callable[..., Tensor],
    tensors: tuple[Any, Any, Any],
    keywords: Mapping[str, Any],
    *frozen: Hashable,
) -> Plan | None:
    """Return the plan of a loss, made now if there is none yet; None where it cannot have one."""
    input, target, voxel_weight = tensors
    if None in frozen or torch.compiler.is_compiling() or transforms_active():
        return None
    if type(input) not in TENSORS or type(target) is not Tensor:
        return None
    if not (voxel_weight is None or type(voxel_weight) is Tensor):
        return None
    shape = input.shape
    key = (
        *(function, *frozen, len(shape), shape[:2], 0 in shape, input.dtype, input.device.type),
        *(target.shape == shape, voxel_weight is None),
    )
    try:
        return _plans[key]
    except KeyError:
        pass
    if len(_plans) >= MOST_PLANS:
        _plans.clear()
    plan = _plans[key] = _made(function, tensors, keywords)
    return plan


def freeze(keywords: Mapping[str, Any]) -> Hashable:
    """Return what a plan depends on of the keywords; None where there is none for them."""
    found: list[Hashable] = []
    for name, given in keywords.items():
        kind = type(given)
        # True equals 1, but is another keyword.
        frozen = (kind, given) if kind in PLAIN else _frozen(given)
        if frozen is None or (name == "sync" and given is not False):
            return None
        found.append((name, frozen))
    return tuple(found)


def _frozen(given: Any) -> Hashable:  # noqa: ANN401
    kind = type(given)
    if kind in PLAIN:
        return kind, given
    if kind in (list, tuple):
        parts = tuple(map(_frozen, given))
        return None if None in parts else (kind, parts)
    if kind is Tensor and not given.requires_grad:
        return kind, given.shape, given.dtype, given.device
    return None


def _made(
    function: Callable[..., Tensor],
    tensors: tuple[Tensor, Tensor, Tensor | None],
    keywords: Mapping[str, Any],
) -> Plan | None:
    """Trace a loss, with sums made up."""
    input, target, given = tensors
    if why_not(input.device) is not None:
        return None
    names = tuple(name for name, of_call in keywords.items() if isinstance(of_call, Tensor))
    asked: list[tuple[Options, str]] = []

    def formula(rows: Callable[..., Tensor], stand_ins: Sequence[Tensor]) -> Tensor:
        def source(
            x: Tensor,
            t: Tensor,
            *,
            voxel_weight: Tensor | None,
            impl: str,
            **of_sums: Any,  # noqa: ANN401
        ) -> RegionSums:
            if x is not input or t is not target or voxel_weight is not given:
                raise Untraceable("the sums are of other tensors")
            options = options_of(x, **of_sums)
            asked.append((options, impl))
            made_up = rows(len(options.terms), *input.shape[:2])
            return RegionSums(options.terms, made_up, constant=True)

        own = {**keywords, **dict(zip(names, stand_ins, strict=True))}
        return function(input, target, given, **own, _source=source)

    try:
        program = trace(formula, [keywords[name] for name in names])
    except Exception:  # noqa: BLE001  # if it is an error, the loss that runs raises it again
        return None
    ((options, impl),) = asked
    return Plan(Formula(options, impl, program), names)
