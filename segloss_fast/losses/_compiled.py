"""Losses over sums in graphs that torch.compile makes for the CPU: one operator each way.

What a call is like is known while its graph is made, so that its plan (see _planned) can be made
then, and its formula need not be operations of the graph. Before each call torch looks whether all
that was read while it traced is as it was, which takes as long as the kernels do on a small volume.
So what can be is decided where torch does not trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from segloss_fast import _impl
from segloss_fast._check import as_weight, is_dense
from segloss_fast._native import _C
from segloss_fast.losses import _planned
from segloss_fast.ops.region_sums import graphs

MOST = 512  # losses with different keywords, of which are known
SERVED = ("auto", "native")

_functions: dict[str, Callable[..., Tensor]] = {}  # by their names in code
_known: dict[str, tuple[Callable[..., Tensor], Mapping[str, Any]]] = {}


def name_of(
    function: Callable[..., Tensor], keywords: Mapping[str, Any], frozen: object
) -> str | None:
    """Return a text that stands for a loss; None if it does not say all that its value depends on.

    Args:
        function: The loss.
        keywords: Those that are no tensors.
        frozen: What _planned.freeze makes of them.
    """
    if frozen is None:
        return None
    own = f"{function.__module__}.{function.__qualname__}"
    if _functions.setdefault(own, function) is not function:
        return None  # functions made inside of others may have one name, and do different things
    name = f"{own} {frozen!r}"
    if name not in _known and len(_known) >= MOST:
        _known.pop(next(iter(_known)), None)  # the oldest, which is traced from now on
    _known[name] = function, dict(keywords)
    return name


def in_graph(
    name: str,
    weights: dict[str, Any],
    input: Tensor,
    target: Tensor,
    voxel_weight: Tensor | None,
) -> Tensor | None:
    """Return a loss as one operator of a graph; None where its operations are to be traced.

    Args:
        name: What stands for the loss.
        weights: The keywords that are tensors.
        input: As the loss takes it.
        target: Likewise.
        voxel_weight: Likewise.
    """
    tensors = (input, target) if voxel_weight is None else (input, target, voxel_weight)
    kinds = kinds_of((*tensors, *weights.values()))
    if kinds is None:
        return None
    text = described(name, kinds, tuple(weights), len(tensors), _impl._default)
    return None if text is None else value_of(text, tensors, tuple(weights.values()))


def kinds_of(tensors: Sequence[Any]) -> tuple[Any, ...] | None:
    """Return shape, dtype, kind of device of each tensor, and whether it learns.

    None where one of them is no dense tensor, or of a shape that is not known.
    """
    # torch loads this when it compiles, and not before.
    from torch.fx.experimental.symbolic_shapes import has_static_value

    kinds = []
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or not is_dense(tensor):
            return None
        for size in tensor.shape:
            if not has_static_value(size):
                return None
        kinds.append((tuple(tensor.shape), tensor.dtype, tensor.device.type, tensor.requires_grad))
    return tuple(kinds)


def value_of(
    text: str,
    tensors: Sequence[Tensor],
    weights: Sequence[Tensor],
    operator: Callable[..., Any] = graphs.operator,
) -> Tensor:
    """Return the value of a formula that has been written.

    Args:
        text: The formula.
        tensors: Input, target, perhaps a voxel weight.
        weights: The arguments of its program.
        operator: What computes it.
    """
    numbers = [weight.to(torch.float64).flatten() for weight in weights]
    packed = None if not numbers else numbers[0] if len(numbers) == 1 else torch.cat(numbers)
    input, target, voxel_weight = (*tensors, None)[:3]
    found: Tensor = operator(input, target, voxel_weight, packed, text)[0]
    return found


def serves(kinds: tuple[Any, ...], setting: str) -> bool:
    """Whether the operator serves tensors, the first of which is the input.

    Args:
        kinds: As kinds_of.
        setting: Which implementation is asked for.
    """
    if _C is None or torch.compiler.is_exporting() or any(kind[2] != "cpu" for kind in kinds):
        return False
    return setting in SERVED and not any(learns for *_, learns in kinds[1:])


def described(
    name: str, kinds: tuple[Any, ...], weights: tuple[str, ...], count: int, setting: str
) -> str | None:
    """Return the formula of a call as text; None where kernels do not serve it, or it has none.

    Args:
        name: What stands for the loss.
        kinds: As kinds_of, of all tensors.
        weights: The names of the keywords that are tensors, which come last.
        count: How many others there are: input, target, perhaps a voxel weight.
        setting: What impl="auto" means.
    """
    if name not in _known:
        return None
    function, keywords = _known[name]
    impl = keywords.get("impl", "auto")
    if not serves(kinds, setting if impl == "auto" else impl):
        return None
    with _disable_current_modes():
        # They have a shape, and no memory to speak of.
        stand_ins = [torch.zeros((), dtype=kind[1]).expand(kind[0]) for kind in kinds]
        own = dict(zip(weights, stand_ins[count:], strict=True))
        call = _planned.Call(function, {**keywords, **own}, function, ())
        input, target = stand_ins[:2]
        voxel_weight = stand_ins[2] if count > 2 else None
        try:
            graphs.check(input, target, voxel_weight, keywords.get("ignore_index"))
        except (TypeError, ValueError):
            return None  # which what is traced instead raises
        plan = _planned._made(call, (input, target, as_weight(voxel_weight)))
        return None if plan is None else graphs.write(plan.formula)


# What torch.compiler.assume_constant_result sets, as in _native.
described._dynamo_marked_constant = True  # type: ignore[attr-defined]
