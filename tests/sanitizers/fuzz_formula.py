"""Makes programs of formulas, good and bad ones, and steps that run them with a pass over a volume.

A program is numbers that the interpreter in C++ trusts once it has checked them. Here they are
random: what it takes must do as Python does, number by number, and what it refuses may be anything.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segloss_fast._native import _C
from segloss_fast.ops._formula.program import AXES, OPERATIONS, WIDTH
from segloss_fast.ops.region_sums.options import TERMS
from tests.sanitizers.driver import every_instruction_set

draw = random.Random(0)
VALUES = (0.0, -0.0, 1.0, -1.0, 0.5, 3.0, -2.5, 1e300, 1e-300, math.inf, -math.inf, math.nan)
STRANGE = (-1, 0, 1, 7, 24, 2**30, 2**31 - 1, -(2**31))
MOST_ELEMENTS = 10**4  # of steps that are run
Number = Any  # of numpy, whose division by zero is no error


def function(name: str, poles: dict[float, float]) -> Callable[[Number], Number]:
    """Return a function of the C library, with what it has where Python has an error."""

    def call(a: Number) -> Number:
        if a in poles:
            return poles[a]
        try:
            return getattr(math, name)(a)
        except OverflowError:
            return math.inf
        except ValueError:
            return math.nan

    return call


def power(a: Number, b: Number) -> Number:
    try:
        return math.pow(a, b)
    except (OverflowError, ValueError):
        return np.power(a, b)


OF_ONE: dict[str, Callable[[Number], Number]] = {
    "copy": lambda a: a,
    "neg": lambda a: -a,
    "abs": abs,
    "sign": lambda a: float(a > 0) - float(a < 0),
    "sqrt": function("sqrt", {}),
    "exp": function("exp", {}),
    "expm1": function("expm1", {}),
    "log": function("log", {0.0: -math.inf}),
    "log1p": function("log1p", {-1.0: -math.inf}),
    "not": lambda a: a == 0,
}
OF_TWO: dict[str, Callable[[Number, Number], Number]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": power,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "and": lambda a, b: a != 0 and b != 0,
    "or": lambda a, b: a != 0 or b != 0,
    "max": lambda a, b: a if a > b or a != a else b,
    "min": lambda a, b: a if a < b or a != a else b,
}


class Made:
    """The arguments of a program, random: constants, arguments, rows, gradient, and some room."""

    def __init__(self) -> None:
        self.constants = [draw.choice(VALUES) for _ in range(draw.randint(0, 3))]
        self.arguments = [draw.randint(0, 3) for _ in range(draw.randint(0, 2))]
        self.rows, self.width = draw.randint(1, 3), draw.randint(1, 4)
        self.first = len(self.constants) + sum(self.arguments)
        self.array = self.first + 2 * self.rows * self.width + draw.randint(1, 6)
        self.steps = [self._step() for _ in range(draw.randint(0, 8))]
        self.loss = draw.randrange(self.array)
        self.values = draw.randint(0, len(self.steps))

    def _step(self) -> list[int]:
        sizes = [draw.randint(1, 3) for _ in range(AXES)]
        views = [self._view(sizes, least) for least in (self.first, 0, 0, 0)]
        operation = draw.randrange(len(OPERATIONS))
        return [operation, draw.randint(0, 1), 1, *sizes, *(n for view in views for n in view)]

    def _view(self, sizes: list[int], least: int) -> list[int]:
        first = draw.randrange(least, self.array)
        strides, room = [], self.array - 1 - first
        for size in sizes:
            most = room if size == 1 else room // (size - 1)
            strides.append(draw.randint(0, min(most, 4)))
            room -= strides[-1] * (size - 1)
        return [first, *strides]

    def native(self) -> Any:  # noqa: ANN401
        """Return the program in C++; ValueError where it is refused."""
        numbers = [number for step in self.steps for number in step]
        assert _C is not None
        sizes = (self.rows, self.width, self.array, self.loss, self.values)
        return _C.Formula(numbers, self.constants, self.arguments, *sizes)


def element(step: list[int], a: Number, b: Number, c: Number) -> Number:
    """Return what an operation makes of three numbers."""
    name = OPERATIONS[step[0]]
    if name == "where":
        value = b if a != 0 else c
    else:
        value = OF_ONE[name](a) if name in OF_ONE else OF_TWO[name](a, b)
    return np.float64(np.float32(value)) if step[1] else np.float64(value)


def by_hand(made: Made, rows: Tensor, arguments: list[Tensor]) -> tuple[float, Tensor]:
    """Return the value and the gradient of one level."""
    array = np.zeros(made.array)
    fixed = [*made.constants, *(n for given in arguments for n in given.tolist())]
    array[: made.first] = fixed
    array[made.first : made.first + rows.numel()] = rows.flatten().tolist()
    for step in made.steps:
        out, *operands = (step[6 + 4 * i : 10 + 4 * i] for i in range(4))
        for index in np.ndindex(*step[3:6]):
            at = [v[0] + int(np.dot(index, v[1:])) for v in (*operands, out)]
            array[at[3]] = element(step, *(array[i] for i in at[:3]))
    loss = array[made.loss]
    grad = array[made.first + rows.numel() :][: rows.numel()]
    return float(loss), torch.from_numpy(grad.copy()).view_as(rows)


def run_good() -> None:
    made = Made()
    program, levels = made.native(), [draw.choice((0.5, 1.0, -2.0)) for _ in range(2)]
    rows = torch.tensor(
        [draw.choice(VALUES) for _ in range(made.rows * 2 * made.width)], dtype=torch.float64
    ).view(made.rows, 2, made.width)
    arguments = [torch.rand(size, dtype=torch.float64) for size in made.arguments]
    grad = torch.full_like(rows, 17.0)
    addresses = [argument.data_ptr() for argument in arguments]
    value = program.run(rows.data_ptr(), addresses, levels, grad.data_ptr())
    with np.errstate(all="ignore"):
        # Of the first level: these steps may read what that has left in the array.
        loss, true = by_hand(made, rows[:, 0], arguments)
    alone = rows[:, :1].contiguous()
    found = torch.full_like(alone, 17.0)
    first = program.run(alone.data_ptr(), addresses, levels[:1], found.data_ptr())
    compare(torch.tensor(first), torch.tensor(levels[0] * loss))
    compare(found[:, 0], levels[0] * true)
    compare(grad[:, 0], levels[0] * true)
    assert isinstance(value, float)
    program.run(alone.data_ptr(), addresses, levels[:1], 0)


def compare(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one.double(), other.double(), rtol=1e-9, atol=0, equal_nan=True)


def run_bad() -> None:
    """Change some numbers of a good program: it is refused, or runs inside of its array."""
    made = Made()
    for _ in range(draw.randint(1, 2)):
        if made.steps and draw.random() < 0.7:
            step = draw.choice(made.steps)
            step[draw.randrange(WIDTH)] = draw.choice(STRANGE)
        else:
            name = draw.choice(("rows", "width", "array", "loss", "values"))
            setattr(made, name, draw.choice((*STRANGE, 2**40, 2**62, -(2**63))))
    if made.arguments and draw.random() < 0.3:
        made.arguments[0] = draw.choice((-1, 2**62, 2**63 - 1))
    try:
        program = made.native()
    except ValueError as error:
        assert str(error).startswith("formula: "), error  # noqa: PT017
        return
    if any(math.prod(step[3:6]) > MOST_ELEMENTS for step in made.steps) or made.array > 10**6:
        return
    rows = torch.zeros(made.rows, max(made.width, 1), dtype=torch.float64)
    grad = torch.zeros_like(rows)
    arguments = [torch.rand(size, dtype=torch.float64) for size in made.arguments]
    addresses = [argument.data_ptr() for argument in arguments]
    program.run(rows.data_ptr(), addresses, [1.0], grad.data_ptr())


COPY_GRADIENT = [0, 0, 1, 6, 1, 1, 6, 1, 0, 0, 0, 1, *[0] * 10]
CODES = ([TERMS.index("tp")], 0, 0, 0.0, None)


def run_steps() -> None:
    """Call a step with tensors of its kind and with others: an error, or a harmless answer."""
    assert _C is not None
    program = _C.Formula(COPY_GRADIENT, [], [], 1, 6, 12, 0, 1)
    step = _C.Step(program, *CODES)
    x, labels = torch.randn(2, 3, 5), torch.zeros(2, 5, dtype=torch.int64)
    one, grad = torch.ones(()), torch.empty_like(x)
    weight = torch.ones(2, 1, 5)
    kinds = _C.Kinds(tuple((t.shape, t.dtype) for t in (x, labels, weight)))
    value, rows, count, _ = step.forward(kinds.read((x, labels, weight), True), (), (1.0,), True)
    assert count == 0
    assert value == value
    step.backward(rows, one, (x, labels, weight), (grad,))
    assert step.forward(_C.read_plain((x, labels + 3)), (), (1.0,), True)[2:] == (10, 3)
    sums, to = _C.Sums(*CODES), torch.zeros(1, 2, 3, dtype=torch.float64)
    assert sums.forward(_C.read_plain((x, labels)), 1, to) == (0, 0)
    sums.backward(to, _C.read_plain((x, labels)), (grad,))
    assert step.forward_to(_C.read_plain((x, labels)), (), to)[1:] == (0, 0)
    assert step.backward_from(to, one, (x, labels), grad)
    others: tuple[Any, ...] = (
        *(x, labels, one, x[:1], x[..., :4], labels[:, None], x.double(), x.half(), x[:, :1]),
        *(torch.zeros(2, 3, 5, 1, 1, 1), torch.zeros(0, 3, 5), x.to("meta"), x.to(torch.complex64)),
        *(torch._neg_view(x), x.to_sparse(), torch.zeros(()), 1, None, x.expand(2, 3, 5)),
        *(to, to.float(), to[:, :1], to.mT, grad),
    )
    tried = 0
    for _ in range(400):
        tensors = tuple(draw.choice(others) for _ in range(draw.randint(0, 4)))
        levels = tuple(1.0 for _ in range(draw.choice((0, 1, 1, 1, 2))))
        factor, memory = draw.choice(others), tuple(draw.choice(others) for _ in range(1))
        mixed = draw.choice((tensors, (x, draw.choice(others)), (draw.choice(others), labels)))
        calls: tuple[Callable[..., Any], ...] = (
            lambda m=mixed, n=levels: step.forward(_C.read_plain(m), (), n, True),
            lambda m=mixed, n=levels: step.forward(_C.read_plain(m), (one,), n, False),
            lambda m=mixed, n=levels: step.forward(kinds.read((*m, weight), True), (), n, True),
            lambda m=mixed, f=factor, g=memory: step.backward(rows, f, m, g),
            lambda f=factor: step.backward(rows[:-1], f, (x, labels), (grad,)),
            lambda g=memory: step.backward(rows, one, (x, labels), g),
            lambda m=mixed, n=levels, f=factor: sums.forward(_C.read_plain(m), len(n), f),
            lambda f=factor, g=memory: sums.backward(f, _C.read_plain((x, labels)), g),
            lambda m=mixed, g=memory: sums.backward(to, _C.read_plain(m), g),
            lambda m=mixed, f=factor: step.forward_to(_C.read_plain(m), (), f),
            lambda m=mixed, f=factor: step.backward_from(f, one, m, grad),
            lambda m=mixed, f=factor, g=memory: step.backward_from(to, f, m, g[0]),
        )
        for call in calls:
            try:
                call()
                tried += 1
            except (ValueError, TypeError, RuntimeError, AttributeError):
                pass
    assert tried > 50


def run_all() -> None:
    for _ in range(150):
        run_good()
    for _ in range(600):
        run_bad()
    run_steps()


if __name__ == "__main__":
    every_instruction_set(run_all)
