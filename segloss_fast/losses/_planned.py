"""Losses over sums without their formula: it is traced at the first call of a kind.

A loss is a function of an input, a target, and keywords, that asks for sums over the volume and
makes a number of them. All but the sums depends on the keywords and on what kind of tensors they
come with alone, so that it is done once: the checks of the keywords, and the formula, which is
traced into a program (:mod:`segloss_fast.ops._formula`). A plan is what is left to do.

A loss needs nothing for it but that it takes its sums from ``_source`` (see Voxel), as evaluate
does. Where it looks at the volume in other ways, or at numbers, there is no plan, and it runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segloss_fast._check import is_dense
from segloss_fast._impl import recorded, transforms_active
from segloss_fast.losses._resident import resident
from segloss_fast.ops._formula import Untraceable, trace, why_not
from segloss_fast.ops._voxels.maps import row_dtype
from segloss_fast.ops.region_sums import Formula, Options, RegionSums, options_of, region_formula

MOST_PLANS = 512  # of a function: beyond, its keywords change as it goes, and tracing takes longer
PLAIN = (float, int, str, bool, type(None))
TENSORS = (Tensor, nn.Parameter)
Tensors = tuple[Any, Any, Any]  # an input, a target, and a voxel weight or None

_plans: dict[Hashable, dict[Hashable, Plan | None]] = defaultdict(dict)


@dataclass(frozen=True)
class Plan:
    """What is left to do of a loss.

    Attributes:
        formula: The sums and what is made of them.
        names: The keywords that are arguments of the program.
        size: The spatial shape that it was traced for; None once it is known to serve any, because
            a trace for another one gave the same.
    """

    formula: Formula
    names: tuple[str, ...]
    size: torch.Size | None


class Call(NamedTuple):
    """A loss that is to be called.

    Attributes:
        function: Is called with input, target, voxel weight, the keywords, and ``_source`` where it
            is traced.
        keywords: As it takes them. Those that are tensors may be others in the next call.
        name: What stands for the function: of equal name and kind, functions do the same.
        kind: What freeze makes of the keywords, and whatever else a plan depends on; None where it
            depends on something that is not to be compared.
    """

    function: Callable[..., Any]
    keywords: Mapping[str, Any]
    name: Hashable
    kind: Hashable | None


def value_of(call: Call, tensors: Tensors) -> Tensor | None:
    """Return the loss by its plan, None where it has none and must run itself.

    Raises:
        As region_sums.
    """
    plan = plan_of(call, tensors)
    return None if plan is None else by_plan(plan, call, tensors)


def by_plan(plan: Plan, call: Call, tensors: Tensors) -> Tensor | None:
    """Return the loss by a plan of it, None where it must run itself; raise as region_sums."""
    input, target, voxel_weight = tensors
    weights = () if voxel_weight is None else (voxel_weight,)
    arguments = _arguments(plan, call, input) if plan.names else ()
    return region_formula(plan.formula, (input,), (target,), weights, arguments)


def value_of_levels(
    call: Call, levels: Sequence[Tensors], weights: Sequence[float]
) -> Tensor | None:
    """Return the weighted sum of the loss of several levels, None where they must run themselves.

    Raises:
        As region_sums_multi.
    """
    plans = [plan_of(call, level) for level in levels]
    plan = plans[-1]
    if plan is None or any(p is None or p.formula is not plan.formula for p in plans):
        return None
    inputs, targets, voxel_weights = zip(*levels, strict=True)
    given = () if voxel_weights[0] is None else voxel_weights
    arguments = _arguments(plan, call, inputs[0])
    return region_formula(plan.formula, inputs, targets, given, arguments, weights)


def _arguments(plan: Plan, call: Call, input: Tensor) -> list[Tensor]:
    """Return the arguments of the program on the input's device."""
    found = [call.keywords[name] for name in plan.names]
    if input.device.type == "cpu":
        return found
    like = input.new_empty(0, dtype=row_dtype(input.device))
    return [given if given.is_cuda else resident(given, like) for given in found]


def plan_of(call: Call, tensors: Tensors) -> Plan | None:
    """Return the plan of a loss, made now if there is none yet; None where it cannot have one."""
    input, target, voxel_weight = tensors
    if call.kind is None or torch.compiler.is_compiling() or transforms_active() or recorded():
        return None
    if type(input) not in TENSORS or type(target) is not Tensor:
        return None
    if not (voxel_weight is None or type(voxel_weight) is Tensor):
        return None
    if not all(tensor is None or is_dense(tensor) for tensor in tensors):
        return None
    shape = input.shape
    key = (
        *(call.kind, len(shape), shape[:2], 0 in shape, input.dtype, input.device.type),
        *(target.shape == shape, voxel_weight is None, torch.get_default_dtype()),
    )
    plans = _plans[call.name]
    if key not in plans:
        if len(plans) >= MOST_PLANS:
            return None
        plans[key] = _made(call, tensors)
    plan = plans[key]
    if plan is not None and plan.size is not None and plan.size != shape[2:]:
        plan = plans[key] = _for_any_size(plan, _made(call, tensors))
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


def _made(call: Call, tensors: Tensors) -> Plan | None:
    """Trace a loss, with sums made up."""
    if why_not(tensors[0].device) is not None:
        return None
    names = tuple(name for name, of_call in call.keywords.items() if isinstance(of_call, Tensor))
    try:
        return Plan(_traced(call, tensors, names), names, tensors[0].shape[2:])
    except Exception:  # if it is an error, the loss that runs raises it again
        return None


def _for_any_size(plan: Plan, other: Plan | None) -> Plan | None:
    """Return the plan, None where that of another size is another one.

    A formula may depend on the number of voxels, which the program does not know.
    """
    if other is None or other.formula.options != plan.formula.options:
        return None
    if astuple(other.formula.program) != astuple(plan.formula.program):
        return None
    return replace(plan, size=None)


def _traced(call: Call, tensors: Tensors, names: Sequence[str]) -> Formula:
    input, target, given = tensors
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

        own = {**call.keywords, **dict(zip(names, stand_ins, strict=True))}
        found: Tensor = call.function(input, target, given, **own, _source=source)
        return found

    program = trace(formula, [call.keywords[name] for name in names])
    ((options, impl),) = asked
    return Formula(options, impl, program)
