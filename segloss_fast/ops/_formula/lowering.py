"""The operations of torch that a formula may hold, as steps of a program."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from segloss_fast.ops._formula.recorder import Recorder

Value = Any  # a tensor or a number
Axes = int | Sequence[int] | None  # none and an empty one are all
Handler = Callable[..., None]

aten = torch.ops.aten
HANDLERS: dict[Any, Handler] = {}


def lowers(*names: str) -> Callable[[Handler], Handler]:
    """Say which operations of torch a function writes down.

    It gets the recorder, the operation's result, and the operation's arguments.
    """

    def register(handler: Handler) -> Handler:
        for name in names:
            HANDLERS[getattr(aten, name)] = handler
        return handler

    return register


def _same(operation: str) -> Handler:
    """Return what writes down an operation whose operands are torch's."""

    def handler(to: Recorder, out: Tensor, *operands: Value) -> None:
        to.emit(operation, out, *operands)

    return handler


for _names, _operation in (
    (("mul", "mul_"), "mul"),
    (("neg", "neg_"), "neg"),
    (("abs",), "abs"),
    (("sgn", "sign"), "sign"),
    (("sqrt",), "sqrt"),
    (("exp",), "exp"),
    (("expm1",), "expm1"),
    (("log",), "log"),
    (("log1p",), "log1p"),
    (("eq",), "eq"),
    (("ne",), "ne"),
    (("lt",), "lt"),
    (("le",), "le"),
    (("logical_not", "bitwise_not"), "not"),
    (("where",), "where"),
    (("maximum", "clamp_min"), "max"),
    (("minimum", "clamp_max"), "min"),
):
    lowers(*_names)(_same(_operation))


@lowers("add", "add_", "sub", "sub_")
def _add(to: Recorder, out: Tensor, a: Value, b: Value, *, alpha: float = 1) -> None:
    if alpha != 1:
        scaled = to.temporary(out)
        to.emit("mul", scaled, b, alpha)
        b = scaled
    to.emit("sub" if to.name.startswith(("sub", "rsub")) else "add", out, a, b)


@lowers("rsub")
def _rsub(to: Recorder, out: Tensor, a: Value, b: Value, alpha: float = 1) -> None:
    _add(to, out, b, a, alpha=alpha)


@lowers("div", "div_")
def _div(to: Recorder, out: Tensor, a: Value, b: Value) -> None:
    to.emit("div", out, a, b)


@lowers("addcmul", "addcdiv")
def _fused(to: Recorder, out: Tensor, a: Value, b: Value, c: Value, *, value: float = 1) -> None:
    part = to.temporary(out)
    to.emit("mul" if "mul" in to.name else "div", part, b, c)
    _add(to, out, a, part, alpha=value)


@lowers("reciprocal")
def _reciprocal(to: Recorder, out: Tensor, a: Value) -> None:
    to.emit("div", out, 1.0, a)


@lowers("gt", "ge")
def _greater(to: Recorder, out: Tensor, a: Value, b: Value) -> None:
    to.emit("lt" if "gt" in to.name else "le", out, b, a)


@lowers("logical_and", "bitwise_and", "logical_or", "bitwise_or")
@lowers("logical_and_", "bitwise_and_", "logical_or_", "bitwise_or_")
def _logical(to: Recorder, out: Tensor, a: Value, b: Value) -> None:
    if out.dtype != torch.bool:
        to.refuse()
    to.emit("and" if "and" in to.name else "or", out, a, b)


@lowers("pow")
def _pow(to: Recorder, out: Tensor, a: Value, b: Value) -> None:
    number = None if isinstance(b, Tensor) else b
    if number == 2:
        to.emit("mul", out, a, a)
    elif number == 0.5:
        to.emit("sqrt", out, a)
    elif number == -1:
        to.emit("div", out, 1.0, a)
    else:
        to.emit("pow", out, a, b)


@lowers("rsqrt")
def _rsqrt(to: Recorder, out: Tensor, a: Value) -> None:
    to.emit("sqrt", out, a)
    to.emit("div", out, 1.0, out)


@lowers("isinf")
def _isinf(to: Recorder, out: Tensor, a: Tensor) -> None:
    size = to.temporary(a)
    to.emit("abs", size, a)
    to.emit("eq", out, size, math.inf)


@lowers("isnan")
def _isnan(to: Recorder, out: Tensor, a: Tensor) -> None:
    to.emit("ne", out, a, a)


@lowers("masked_fill", "masked_fill_")
def _masked_fill(to: Recorder, out: Tensor, a: Tensor, mask: Tensor, value: Value) -> None:
    to.emit("where", out, mask, value, a)


@lowers("clamp")
def _clamp(to: Recorder, out: Tensor, a: Value, low: Value = None, high: Value = None) -> None:
    if low is not None:
        to.emit("max", out, a, low)
        a = out
    if high is not None:
        to.emit("min", out, a, high)


@lowers("clone", "_to_copy", "alias_copy", "lift_fresh")
def _copy(to: Recorder, out: Tensor, a: Tensor, **how: object) -> None:
    if out.dtype != a.dtype and not out.dtype.is_floating_point:
        to.refuse()  # which may cut off a fraction
    to.emit("copy", out, a)


@lowers("copy_", "fill_")
def _copy_(to: Recorder, out: Tensor, _: Tensor, b: Value, non_blocking: bool = False) -> None:
    to.emit("copy", out, b)


@lowers("zero_")
def _zero_(to: Recorder, out: Tensor, _: Tensor) -> None:
    to.emit("copy", out, 0.0)


@lowers("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full")
@lowers("new_empty", "new_empty_strided")
def constant(to: Recorder, out: Tensor, *_: object, **how: object) -> None:
    """Leave it to be found as a constant."""


@lowers("cat")
def _cat(to: Recorder, out: Tensor, parts: Sequence[Tensor], dim: int = 0) -> None:
    first = 0
    for part in parts:
        if part.shape != (0,):
            to.emit("copy", out.narrow(dim, first, part.shape[dim]), part)
            first += part.shape[dim]


@lowers("stack")
def _stack(to: Recorder, out: Tensor, parts: Sequence[Tensor], dim: int = 0) -> None:
    for place, part in enumerate(parts):
        to.emit("copy", out.select(dim, place), part)


@lowers("slice_backward")
def _slice_backward(to: Recorder, out: Tensor, grad: Tensor, _: object, *where: int) -> None:
    to.emit("copy", out, 0.0)
    to.emit("copy", aten.slice(out, *where), grad)


@lowers("select_backward")
def _select_backward(to: Recorder, out: Tensor, grad: Tensor, _: object, *where: int) -> None:
    to.emit("copy", out, 0.0)
    to.emit("copy", out.select(*where), grad)


def _reduce(
    to: Recorder, operation: str, start: float, out: Tensor, a: Tensor, dims: Axes, keeps: bool
) -> int:
    """Write down a reduction, and return over how many elements it is."""
    dims = [dims] if isinstance(dims, int) else dims or range(a.dim())
    kept = out
    over = sorted(dim % a.dim() for dim in dims)
    if not keeps:
        for dim in over:
            kept = kept.unsqueeze(dim)
    to.emit("copy", out, start)
    to.emit(operation, kept.expand(a.shape), kept.expand(a.shape), a)
    return math.prod(a.shape[dim] for dim in over)


@lowers("sum")
def _sum(
    to: Recorder, out: Tensor, a: Tensor, dims: Axes = None, keeps: bool = False, **how: object
) -> None:
    _reduce(to, "add", 0.0, out, a, dims, keeps)


@lowers("mean")
def _mean(
    to: Recorder, out: Tensor, a: Tensor, dims: Axes = None, keeps: bool = False, **how: object
) -> None:
    to.emit("div", out, out, float(_reduce(to, "add", 0.0, out, a, dims, keeps)))


@lowers("any", "all")
def _any(to: Recorder, out: Tensor, a: Tensor, dims: Axes = None, keeps: bool = False) -> None:
    every = "all" in to.name
    _reduce(to, "and" if every else "or", float(every), out, a, dims, keeps)


@lowers("amax", "amin")
def _extreme(to: Recorder, out: Tensor, a: Tensor, dims: Axes = None, keeps: bool = False) -> None:
    largest = "amax" in to.name
    _reduce(
        to, "max" if largest else "min", -math.inf if largest else math.inf, out, a, dims, keeps
    )
