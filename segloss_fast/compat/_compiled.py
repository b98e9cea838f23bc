"""Drop-ins over sums in graphs that torch.compile makes for the CPU: one operator each way.

What a drop-in is like is read while torch traces, which then looks before each call whether it
still is so. Its formula is traced (see _asked) where torch does not trace, of a module that is made
alike. Its tensors have a shape and no numbers, at which a graph cannot look either.

Of a drop-in that does something to its arguments before it asks for sums, the module that is made
alike has an attribute `_beforehand`, with which it takes them as they are:

- With a method `_prepared` that is done in the graph. It returns the arguments, and other tensors
  that the formula needs, which the attribute holds; None if the operator is not to serve.
- With a method `_least` the operator does it: it clamps the input, of a dtype, to [least, 1 -
  least], where this returns a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from segloss_fast import _impl
from segloss_fast.compat._asked import Asked, asked_of
from segloss_fast.losses import _compiled
from segloss_fast.losses._planned import PLAIN, TENSORS
from segloss_fast.ops.region_sums import graphs

# What torch itself keeps in a module, but for what may have a share in a formula; what torch and
# Lightning write into those that are compiled.
OTHERS = frozenset(vars(nn.Module())) - {"_parameters", "_buffers", "_modules"}
OTHERS |= {"_is_torch_compile", "_compile_kwargs"}
State = tuple[Any, ...]
Prepared = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]  # the arguments, and what else there is


def _state_of(
    value: Any,  # noqa: ANN401
    weights: list[Tensor],
    apart: tuple[str, ...] = (),
) -> State | None:
    """Return what a formula depends on of an attribute; None where that cannot be said.

    torch traces it: what it reads here it looks at before each call.

    Args:
        value: The attribute, or the drop-in itself.
        weights: Gets the tensors.
        apart: Names of those in a dictionary that have no share in the formula.
    """
    # torch loads this when it compiles, and not before.
    from torch.fx.experimental.symbolic_shapes import has_static_value

    kind = type(value)
    if kind in PLAIN:
        known = kind not in (int, float) or has_static_value(value)
        return (kind, value) if known else None
    if isinstance(value, Tensor):
        weights.append(value)
        return (Tensor,)
    if isinstance(value, nn.Module):
        apart = (*OTHERS, *getattr(value, "_apart", ()))
        # To torch a value in vars would be another one than the attribute that a forward reads.
        items = [(name, getattr(value, name)) for name in vars(value) if name not in apart]
    elif kind is dict:
        items = [(name, inner) for name, inner in value.items() if name not in apart]
    elif kind in (list, tuple):
        items = [(str(place), inner) for place, inner in enumerate(value)]
    else:
        return None
    found = []
    for name, inner in items:
        state = _state_of(inner, weights, apart)
        if state is None:
            return None
        found.append((name, state))
    return kind, tuple(found)


def _made(state: State, weights: list[Tensor]) -> Any:  # noqa: ANN401
    """Return what is alike; it takes the tensors that it has from a list."""
    kind, *rest = state
    if kind is Tensor:
        return weights.pop(0)
    if kind in PLAIN:
        return rest[0]
    items = {name: _made(inner, weights) for name, inner in rest[0]}
    if not issubclass(kind, nn.Module):
        return items if kind is dict else kind(items.values())
    made = kind.__new__(kind)
    vars(made).update(vars(nn.Module()), **items)
    return made


@contextmanager
def alike(
    state: State, kinds: tuple[Any, ...], counts: tuple[int, int]
) -> Iterator[tuple[nn.Module, list[Tensor], list[Tensor]]]:
    """Yield a drop-in that is alike, arguments without numbers, and the tensors that it has.

    Args:
        state: Of the drop-in.
        kinds: As kinds_of, of the arguments, of the tensors that it has itself, and of the others.
        counts: How many arguments there are, and how many others.
    """
    given, others = counts
    with _disable_current_modes():
        tensors = [torch.empty(kind[0], dtype=kind[1], device="meta") for kind in kinds[:given]]
        weights = [torch.ones(kind[0], dtype=kind[1]) for kind in kinds[given:]]
        module = _made(state, weights.copy())
        if hasattr(module, "_prepared"):
            vars(module)["_beforehand"] = tuple(weights[len(weights) - others :])
        yield module, tensors, weights


def serves(kinds: tuple[Any, ...], setting: str) -> bool:
    """Whether an operator is to serve tensors; as in losses, where autocast changes no formula."""
    return _compiled.serves(kinds, setting) and not torch.is_autocast_enabled("cpu")


def described(
    forward: Callable[..., Tensor],
    state: State,
    kinds: tuple[Any, ...],
    counts: tuple[int, int],
    setting: str,
) -> str | None:
    """Return the formula of a call as text; None where kernels do not serve it, or it has none.

    Args:
        forward: What is called.
        state: As for alike.
        kinds: Likewise.
        counts: Likewise.
        setting: What impl="auto" means.
    """
    if not serves(kinds, setting):
        return None
    with alike(state, kinds, counts) as (module, tensors, weights):
        find: Any = getattr(module, "_least", None)
        least = None if find is None else find(tensors[0].dtype)
        if least is not None:
            vars(module)["_beforehand"] = ()
        asked = asked_of(module, forward, tensors, weights)
        if asked is None or asked.formula.impl not in _compiled.SERVED:
            return None
        return graphs.write(asked.formula, least) if _is_of(asked, tensors) else None


# What torch.compiler.assume_constant_result sets, as in _native.
described._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _is_of(asked: Asked, tensors: list[Tensor]) -> bool:
    """Whether the sums are those of the arguments themselves, or of views with the same axes."""
    weights = () if asked.voxel_weight is None else (asked.voxel_weight,)
    of = asked.input, asked.target, *weights
    if len(of) != len(tensors) or not all(map(_is_view, of, tensors)):
        return False
    if asked.input.shape[:2] != tensors[0].shape[:2]:
        return False
    weight = tensors[2] if weights else None
    try:
        graphs.check(tensors[0], tensors[1], weight, asked.formula.options.ignore_index)
    except (TypeError, ValueError):
        return False
    return True


def _is_view(view: Tensor, tensor: Tensor) -> bool:
    """Whether it is all of a contiguous tensor, of the same items, in the same order."""
    if view.untyped_storage()._cdata != tensor.untyped_storage()._cdata:
        return False
    same = view.dtype == tensor.dtype and view.numel() == tensor.numel()
    return same and view.shape[:1] == tensor.shape[:1] and view.is_contiguous()


def in_graph(
    module: nn.Module,
    forward: Callable[..., Tensor],
    tensors: tuple[Any, ...],
    describe: Callable[..., str | None] = described,
    operator: Callable[..., Any] = graphs.operator,
) -> Tensor | None:
    """Return a drop-in as one operator of a graph; None where its operations are to be traced.

    Args:
        module: The drop-in.
        forward: What is called.
        tensors: The arguments.
        describe: Writes its formula, as described.
        operator: What computes it.
    """
    if not all(type(t) in TENSORS and t.device.type == "cpu" for t in tensors):
        return None
    others: tuple[Tensor, ...] = ()
    prepare = getattr(module, "_prepared", None)
    if prepare is not None:
        prepared = prepare(*tensors)
        if prepared is None:
            return None
        tensors, others = prepared
    weights: list[Tensor] = []
    # In this order, because more is looked at before each call of a graph that has asked for more.
    kinds = _compiled.kinds_of(tensors)
    state = None if kinds is None else _state_of(module, weights)
    weights += others
    own = None if state is None else _compiled.kinds_of(weights)
    if kinds is None or own is None:
        return None
    counts = len(tensors), len(others)
    text = describe(forward, state, kinds + own, counts, _impl._default)
    return None if text is None else _compiled.value_of(text, tensors, weights, operator)
