"""Drop-ins over sums without their formula: it is traced at the first call of a kind.

A drop-in prepares its arguments as its peer does, asks region_sums for sums, and makes a number of
them. The last part depends on its attributes and on the kind of its arguments alone. So it is
traced into a program (:mod:`segloss_fast.ops._formula`), and from then on a call ends where it asks
for its sums. If it asks for others than when it was traced, because of what its arguments hold, or
looks at these again, it goes on as it is written.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from types import BuiltinFunctionType, FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from segloss_fast._check import BYTES, as_weight
from segloss_fast._impl import recorded, transforms_active
from segloss_fast.compat import _compiled
from segloss_fast.compat._asked import asked_of
from segloss_fast.compat._compiled import OTHERS
from segloss_fast.losses._planned import MOST_PLANS, PLAIN, TENSORS
from segloss_fast.losses._ready import Ready, ready_for
from segloss_fast.ops._formula import why_not
from segloss_fast.ops.region_sums import (
    Formula,
    Options,
    RegionSums,
    answered_by,
    answering,
    region_formula,
)

F = TypeVar("F", bound=Callable[..., Tensor])
KEPT = OTHERS | {"_ready"}  # by the losses here, for the next call

_plans: dict[type, dict[Hashable, _Plan | None]] = defaultdict(dict)


@dataclass
class _Plan:
    formula: Formula
    shape: torch.Size
    ready: Ready | None = None  # the last call


class _Done(Exception):
    """Ends a call where it asks for its sums: the result is there."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


def planned(forward: F) -> F:
    """Declare a ``forward`` of two or three tensors that is a formula of sums."""

    @functools.wraps(forward)
    def call(self: nn.Module, *tensors: Any, **named: Any) -> Tensor:  # noqa: ANN401
        if torch.compiler.is_compiling():
            found = None if named else _compiled.in_graph(self, forward, tensors)
            return forward(self, *tensors, **named) if found is None else found
        if named or answering():
            return forward(self, *tensors, **named)
        if transforms_active() or recorded():
            return forward(self, *tensors)
        weights: list[Tensor] = []
        kind = _kind(self, tensors, weights)
        plan = None if kind is None else _plan_of(self, forward, tensors, kind, weights)
        if plan is None:
            return forward(self, *tensors)
        try:
            recording = torch.is_grad_enabled()
            with answered_by(functools.partial(_answer, plan, weights, recording)):
                return forward(self, *tensors)
        except _Done as done:
            return done.value

    # torch.compile counts what it has compiled, up to a limit, by code: each drop-in has its own.
    own: Any = call
    own.__code__ = own.__code__.replace(co_name=forward.__qualname__)
    return call  # type: ignore[return-value]


def _answer(
    plan: _Plan,
    weights: Sequence[Tensor],
    recording: bool,
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
    options: Options,
    impl: str,
) -> RegionSums | None:
    """End the call if it asks for the sums that its formula was traced with."""
    formula = plan.formula
    if options != formula.options or impl != formula.impl or input.shape != plan.shape:
        return None
    if type(input) not in TENSORS or type(target) is not Tensor:
        return None
    if torch.is_grad_enabled() != recording:
        return None  # inside of something that has a derivative of its own
    given = () if voxel_weight is None else (voxel_weight,)
    tensors = (input, target, *given)
    found = None if plan.ready is None else plan.ready.value(tensors, weights)
    if found is None:
        found = region_formula(formula, (input,), (target,), given, weights)
        if found is None:
            return None
        if as_weight(voxel_weight, keep=BYTES) is voxel_weight:
            plan.ready = ready_for(formula, tensors, weights)
    raise _Done(found)


def _plan_of(
    module: nn.Module,
    forward: Callable[..., Tensor],
    tensors: Sequence[Any],
    kind: Hashable,
    weights: Sequence[Tensor],
) -> _Plan | None:
    plans = _plans[type(module)]
    if kind not in plans:
        if len(plans) >= MOST_PLANS:
            return None
        plans[kind] = _made(module, forward, tensors, weights)
    return plans[kind]


def _made(
    module: nn.Module,
    forward: Callable[..., Tensor],
    tensors: Sequence[Any],
    weights: Sequence[Tensor],
) -> _Plan | None:
    if why_not(tensors[0].device) is not None:
        return None
    found = asked_of(module, forward, tensors, weights)
    return None if found is None else _Plan(found.formula, found.input.shape)


def _kind(module: nn.Module, tensors: Sequence[Any], weights: list[Tensor]) -> Hashable | None:
    """Return what a formula depends on but for numbers in tensors, None where that is not known.

    Args:
        module: The drop-in.
        tensors: Its arguments.
        weights: Gets the memory of the tensors that it has itself.
    """
    found: list[Hashable] = [torch.get_default_dtype()]
    for tensor in tensors:
        if tensor is None:
            found.append(None)
        elif isinstance(tensor, Tensor):
            if tensor.device.type not in ("cpu", "cuda"):
                return None
            autocast = torch.is_autocast_enabled(tensor.device.type)
            found.append((tensor.shape, tensor.dtype, tensor.device, autocast))
        else:
            return None
    try:
        found.append(_state(module, weights, {}))
    except TypeError:
        return None
    return tuple(found)


def _state(value: Any, weights: list[Tensor], seen: dict[int, int]) -> Hashable:  # noqa: ANN401
    """Return what a formula depends on of an attribute; TypeError where that is not known."""
    kind = type(value)
    if kind in PLAIN:
        return kind, value
    if id(value) in seen:  # the drop-in itself, for example
        return "seen", seen[id(value)]
    if isinstance(value, nn.Module):
        seen[id(value)] = len(seen)
        own = [(n, _state(v, weights, seen)) for n, v in vars(value).items() if n not in KEPT]
        return kind, tuple(own)
    if kind is dict or kind in (list, tuple):
        items = value.items() if kind is dict else enumerate(value)
        return kind, tuple((key, _state(inner, weights, seen)) for key, inner in items)
    if kind in TENSORS and not value.requires_grad:
        weights.append(value)
        return kind, value.shape, value.dtype, value.device
    if kind is functools.partial:
        return kind, value.func, _state(value.args, weights, seen)
    if kind in (FunctionType, BuiltinFunctionType, type, torch.dtype) or isinstance(value, Enum):
        return kind, value
    raise TypeError(f"a {kind.__name__} may be anything")
