"""What a traced formula is: steps over one array of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from segloss_fast._native import _C

# The order is the numbering of csrc/formula/program.h and of triton_kernels.py.
OPERATIONS = (
    "copy",
    "add",
    "sub",
    "mul",
    "div",
    "neg",
    "abs",
    "sign",
    "sqrt",
    "exp",
    "expm1",
    "log",
    "log1p",
    "pow",
    "eq",
    "ne",
    "lt",
    "le",
    "and",
    "or",
    "not",
    "where",
    "max",
    "min",
)
AXES = 3  # that a step can have, those of size 1 not counted


@dataclass(frozen=True)
class View:
    """Where the elements of an operand lie: a first place in a slot, and a stride per axis."""

    slot: int
    offset: int
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One elementwise operation: ``out = operation(*operands)``, for all elements of a shape.

    An axis that the result has no stride in is summed over (or whatever the operation is), because
    the result is an operand too; its elements come one after another.

    Attributes:
        operation: One of OPERATIONS; truth values are 0 and 1.
        rounds: Whether the result is rounded to float32.
        shape: Of the operands.
        out: Where the result goes.
        operands: At most three.
    """

    operation: str
    rounds: bool
    shape: tuple[int, ...]
    out: View
    operands: tuple[View, ...]


@dataclass(frozen=True, eq=False)
class Program:
    """A formula of rows ``[K, B, C]``, and its derivative, as numbers that an interpreter reads.

    The array that it works on holds the constants, the arguments, the rows, the gradient of the
    rows, and whatever else it needs, one after another.

    Attributes:
        steps: WIDTH numbers each: operation, whether to round, the elements that are independent
            of each other, the sizes of the axes, then place and strides of the result and of three
            operands.
        values: How many of the steps the value needs alone; those of the gradient follow.
        constants: What the array begins with.
        arguments: The number of elements of each tensor that comes with a call.
        rows: The shape of the rows.
        size: Of the array.
        loss: The place of the value.
        single: Whether the value is a float32.
    """

    steps: tuple[tuple[int, ...], ...]
    values: int
    constants: tuple[float, ...]
    arguments: tuple[int, ...]
    rows: tuple[int, int, int]
    size: int
    loss: int
    single: bool

    @property
    def first(self) -> int:
        """The place of the rows."""
        return len(self.constants) + sum(self.arguments)

    @cached_property
    def native(self) -> Any:  # noqa: ANN401
        """The program in C++."""
        assert _C is not None
        return _C.Formula(
            list(chain.from_iterable(self.steps)),
            self.constants,
            self.arguments,
            self.rows[0],
            self.rows[1] * self.rows[2],
            self.size,
            self.loss,
            self.values,
        )


WIDTH = 3 + AXES + 4 * (1 + AXES)


class Untraceable(Exception):
    """A formula does what a program cannot."""


def pack(step: Step, places: Sequence[int]) -> tuple[int, ...]:
    """Return a step as numbers; raise Untraceable if it has too many axes.

    Args:
        step: The step.
        places: Where the slots begin.
    """
    views = [step.out, *step.operands]
    axes = [axis for axis, size in enumerate(step.shape) if size != 1]
    axes.sort(key=lambda axis: step.out.strides[axis] == 0)  # those that are summed over last
    if len(axes) > AXES:
        raise Untraceable(f"{step.operation} has more than {AXES} axes")
    independent = 1
    for axis in axes:
        independent *= step.shape[axis] if step.out.strides[axis] else 1
    blank = [0] * (AXES - len(axes))
    numbers = [OPERATIONS.index(step.operation), int(step.rounds), independent]
    numbers += [*(step.shape[axis] for axis in axes), *(1 for _ in blank)]
    for view in views:
        numbers += [places[view.slot] + view.offset, *(view.strides[axis] for axis in axes), *blank]
    return tuple(numbers + [0] * (WIDTH - len(numbers)))
