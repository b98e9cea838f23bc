"""The interpreter of programs on a GPU: one program of Triton, because there is little to do.

Steps follow one another with a barrier between them. Within a step the elements that do not depend
on each other are the lanes', of all levels at once; what is summed over, a lane adds up in order,
so that the result is the same every time. The functions that Triton's core lacks are formed from
those it has, to the last bits of float64.
"""

# Triton's compiler reads the annotations, and knows none for pointers and tiles.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import triton
import triton.language as tl

COPY = tl.constexpr(0)  # as numbered in program.OPERATIONS
ADD = tl.constexpr(1)
SUB = tl.constexpr(2)
MUL = tl.constexpr(3)
DIV = tl.constexpr(4)
NEG = tl.constexpr(5)
ABS = tl.constexpr(6)
SIGN = tl.constexpr(7)
SQRT = tl.constexpr(8)
EXP = tl.constexpr(9)
EXPM1 = tl.constexpr(10)
LOG = tl.constexpr(11)
LOG1P = tl.constexpr(12)
POW = tl.constexpr(13)
EQ = tl.constexpr(14)
NE = tl.constexpr(15)
LT = tl.constexpr(16)
LE = tl.constexpr(17)
AND = tl.constexpr(18)
OR = tl.constexpr(19)
NOT = tl.constexpr(20)
WHERE = tl.constexpr(21)
MAX = tl.constexpr(22)
MIN = tl.constexpr(23)
WIDTH = tl.constexpr(22)  # numbers of a step: program.WIDTH
BLOCK = tl.constexpr(128)


@triton.jit
def log1p(x):
    """Return log(1 + x): the rounding of 1 + x, in the logarithm and below, cancels."""
    u = 1.0 + x
    exact = tl.log(u) * (x / (u - 1.0))
    return tl.where((u == 1.0) | (x == float("inf")), x, exact)


@triton.jit
def expm1(x):
    """Return e^x - 1: the rounding of e^x, in the difference and the logarithm, cancels."""
    u = tl.exp(x)
    exact = (u - 1.0) * (x / tl.log(u))
    return tl.where((u == 1.0) | (u == float("inf")), x, tl.where(u == 0.0, -1.0, exact))


@triton.jit
def power(a, b):
    """Return a^b."""
    size = tl.where((b == 0.0) | (a == 1.0), 1.0, tl.exp(b * tl.log(tl.abs(a))))
    whole, half = tl.floor(b), tl.floor(b / 2) * 2
    negative = tl.where(whole == b, tl.where(half == b, size, -size), float("nan"))
    return tl.where(a < 0, negative, size)


@triton.jit
def elementary(operation, a, b):
    """Return the result of an operation with a function in it."""
    if operation == SQRT:
        value = tl.sqrt(a)
    elif operation == EXP:
        value = tl.exp(a)
    elif operation == EXPM1:
        value = expm1(a)
    elif operation == LOG:
        value = tl.log(a)
    elif operation == LOG1P:
        value = log1p(a)
    else:
        value = power(a, b)
    return value


@triton.jit
def comparison(operation, a, b):
    """Return the truth value of an operation as a number."""
    if operation == EQ:
        value = a == b
    elif operation == NE:
        value = a != b
    elif operation == LT:
        value = a < b
    elif operation == LE:
        value = a <= b
    elif operation == AND:
        value = (a != 0.0) & (b != 0.0)
    elif operation == OR:
        value = (a != 0.0) | (b != 0.0)
    else:
        value = a == 0.0
    return value.to(tl.float64)


@triton.jit
def arithmetic(operation, a, b, c):
    """Return the result of one of the other operations."""
    if operation == COPY:
        value = a
    elif operation == ADD:
        value = a + b
    elif operation == SUB:
        value = a - b
    elif operation == MUL:
        value = a * b
    elif operation == DIV:
        value = a / b
    elif operation == NEG:
        value = -a
    elif operation == ABS:
        value = tl.abs(a)
    elif operation == SIGN:
        value = (a > 0.0).to(tl.float64) - (a < 0.0).to(tl.float64)  # of a NaN 0, as torch's
    elif operation == WHERE:
        value = tl.where(a != 0.0, b, c)
    elif operation == MAX:
        value = tl.where((a > b) | (a != a), a, b)
    else:
        value = tl.where((a < b) | (a != a), a, b)
    return value


@triton.jit
def element(operation, a, b, c):
    """Return the result of a step. Its number says of which kind it is, in few comparisons."""
    if operation >= WHERE:
        value = arithmetic(operation, a, b, c)
    elif operation >= EQ:
        value = comparison(operation, a, b)
    elif operation >= SQRT:
        value = elementary(operation, a, b)
    else:
        value = arithmetic(operation, a, b, c)
    return value


@triton.jit
def place(numbers, which, i, j, k):
    """Return where an operand's elements are in the array, given those of the axes."""
    at = numbers + 6 + 4 * which
    return tl.load(at) + i * tl.load(at + 1) + j * tl.load(at + 2) + k * tl.load(at + 3)


@triton.jit
def pointers(fixed, array, at, level, first, size):
    """Return where to find places: of the constants, or in the level's own part of the array."""
    return tl.where(at < first, fixed + at, array + level * size + (at - first))


@triton.jit
def run_step(numbers, fixed, array, levels, first, size):
    """Do one step for all elements and levels."""
    operation, rounds, independent = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 2)
    middle, last = tl.load(numbers + 4), tl.load(numbers + 5)
    inner = tl.load(numbers + 3) * middle * last // independent
    for begin in range(0, independent * levels, BLOCK):
        lane = begin + tl.arange(0, BLOCK)
        valid = lane < independent * levels
        level = lane // independent
        for r in range(inner):
            flat = (lane % independent) * inner + r
            i, j, k = flat // (middle * last), flat // last % middle, flat % last
            out = pointers(fixed, array, place(numbers, 0, i, j, k), level, first, size)
            at = pointers(fixed, array, place(numbers, 1, i, j, k), level, first, size)
            a = tl.load(at, mask=valid, other=1.0)
            at = pointers(fixed, array, place(numbers, 2, i, j, k), level, first, size)
            b = tl.load(at, mask=valid, other=1.0)
            at = pointers(fixed, array, place(numbers, 3, i, j, k), level, first, size)
            c = tl.load(at, mask=valid, other=1.0)
            value = element(operation, a, b, c)
            value = tl.where(rounds != 0, value.to(tl.float32).to(tl.float64), value)
            tl.store(out, value, mask=valid)


SIZES = ("steps", "levels", "count", "width", "first", "size", "loss_at")


@triton.jit(do_not_specialize=SIZES)
def interpret(
    numbers,
    fixed,
    array,
    rows,
    weights,
    loss,
    grad,
    steps: tl.int32,
    levels: tl.int32,
    count: tl.int32,
    width: tl.int32,
    first: tl.int32,
    size: tl.int32,
    loss_at: tl.int32,
    GRADIENT: tl.constexpr,
):
    """Run a program.

    Args:
        numbers: Its steps, ``[steps, WIDTH]`` int32.
        fixed: Its constants and arguments, ``[first]``.
        array: Room for the rest, ``[levels, size]``.
        rows: ``[count, levels, width]``.
        weights: Those of the levels.
        loss: The result.
        grad: As rows.
        steps: How many are run.
        levels: How many there are.
        count: How many rows.
        width: Sums of a row and level.
        first: Numbers before those of a level.
        size: Numbers of a level.
        loss_at: The place of the value among them.
        GRADIENT: Whether the gradient is wanted.
    """
    total = count * levels * width
    for begin in range(0, total, BLOCK):
        lane = begin + tl.arange(0, BLOCK)
        level = lane // width % levels
        to = level * size + lane // (levels * width) * width + lane % width
        tl.store(array + to, tl.load(rows + lane, mask=lane < total), mask=lane < total)
    tl.debug_barrier()
    for step in range(steps):
        run_step(numbers + step * WIDTH, fixed, array, levels, first, size)
        tl.debug_barrier()  # the next step reads what other threads have written
    if GRADIENT:
        for begin in range(0, total, BLOCK):
            lane = begin + tl.arange(0, BLOCK)
            valid = lane < total
            level = lane // width % levels
            at = level * size + (count + lane // (levels * width)) * width + lane % width
            weight = tl.load(weights + level, mask=valid)
            tl.store(grad + lane, weight * tl.load(array + at, mask=valid), mask=valid)
    value = tl.load(weights) * tl.load(array + loss_at)
    for level in range(1, levels):
        value += tl.load(weights + level) * tl.load(array + level * size + loss_at)
    tl.store(loss, value)
