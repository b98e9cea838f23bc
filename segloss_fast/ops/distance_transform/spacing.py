"""Spacings: their checks, and the unit in which their squares are integers, if there is one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from numbers import Real

import torch

SMALLEST, LARGEST = 1e-30, 1e30
FURTHEST = 1e25  # the largest spacing over the smallest: float32 holds the squares of both
LEAST_SQUARED, MOST_SQUARED = 1.2e-19, 1.8e19  # lengths whose squares float32 holds
SURELY = 1e9  # a spacing of this size, or smaller, has squares that it holds for any volume
MOST = 1024  # denominators of ratios of squares, that of 25 : 32 in spacing
# A ratio of spacings that were stored in float32 is this close to what was meant.
CLOSE = 2.5e-7


def per_axis(spacing: object, axes: int, name: str) -> list[float]:
    """Return one spacing per axis of the tensor of that name.

    Raises:
        TypeError: If it is no number and no numbers.
        ValueError: If their count is not that of the axes, or one is out of range.
    """
    if spacing is None:
        return [1.0] * axes
    if isinstance(spacing, Real) or not isinstance(spacing, Iterable) or isinstance(spacing, str):
        return [_spacing("spacing", spacing)] * axes
    found = [_spacing(f"spacing[{i}]", value) for i, value in enumerate(spacing)]
    if len(found) != axes:
        raise ValueError(
            f"spacing must be one number, or one for each of the {name}'s {axes} spatial axes, "
            f"got {len(found)} numbers"
        )
    return found


def _spacing(name: str, value: object) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    number = float(value)
    if not (0 < number < float("inf")):
        raise ValueError(f"{name} must be finite and greater than 0, got {number:g}")
    if not SMALLEST <= number <= LARGEST:
        raise ValueError(
            f"{name} must lie between {SMALLEST:g} and {LARGEST:g}, got {number:g}; choose another "
            "unit: the result is float32"
        )
    return number


def check_ratio(spacings: Sequence[float]) -> None:
    """Raise ValueError where float32 cannot compare distances along two of the axes."""
    smallest, largest = min(spacings), max(spacings)
    if largest > FURTHEST * smallest:
        raise ValueError(
            f"spacing must not differ by more than {FURTHEST:g} times between axes, "
            f"got {smallest:g} and {largest:g}"
        )


def check_squares(spacings: Sequence[float], sizes: Sequence[int | torch.SymInt]) -> None:
    """Raise ValueError where squared distances in a volume of these sizes do not fit float32."""
    smallest, largest = min(spacings), max(spacings)
    if smallest < LEAST_SQUARED:
        raise ValueError(
            f"spacing must be at least {LEAST_SQUARED:g} for squared distances, "
            f"got {smallest:g}; choose another unit: they are float32"
        )
    if largest <= SURELY:
        return
    pairs = zip(spacings, sizes, strict=True)
    diagonal = math.sqrt(sum((step * (int(size) - 1)) ** 2 for step, size in pairs))
    if diagonal > MOST_SQUARED:
        raise ValueError(
            f"spacing must keep the volume's diagonal within {MOST_SQUARED:g} for squared "
            f"distances, got spacings up to {largest:g}, a diagonal of {diagonal:g}; choose "
            "another unit: they are float32"
        )


def squares(spacings: Sequence[float]) -> tuple[float, list[float]]:
    """Return a unit of length, and the squared spacings in that unit.

    They are integers, as small as can be, where the squares are integer multiples of one number,
    so that sums of them are exact, and equal distances are equal numbers: of 3, 0.8 and 0.8 they
    are 225, 16 and 16. Elsewhere the unit is a power of two which keeps squares within float32.
    """
    smallest = min(spacings)
    ratios = [(each / smallest) ** 2 for each in spacings]
    denominator = 1
    for ratio in ratios:
        denominator *= _denominator(ratio * denominator)
        if denominator > MOST:
            break
    whole = [float(math.floor(ratio * denominator + 0.5)) for ratio in ratios]
    if denominator <= MOST and max(whole) <= MOST**2:
        return smallest / math.sqrt(denominator), whole
    unit = 2.0 ** (math.frexp(max(spacings))[1] - 26)
    return unit, [(each / unit) ** 2 for each in spacings]


def _denominator(ratio: float) -> int:
    """Return the denominator of the simplest fraction this close to a ratio, or one above MOST."""
    rest, before, found = ratio, 0, 1  # the convergents of its continued fraction
    while found <= MOST:
        if abs(math.floor(ratio * found + 0.5) - ratio * found) <= CLOSE * ratio * found:
            return found
        rest = 1 / (rest - math.floor(rest))
        before, found = found, math.floor(rest) * found + before
    return found
