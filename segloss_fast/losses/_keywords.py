"""The keywords that losses have in common: their types, defaults and checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from torch import Tensor

from segloss_fast._check import check_option
from segloss_fast._impl import check_impl
from segloss_fast.ops.region_sums import ACTIVATIONS

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

REDUCTIONS = ("mean", "sum", "none")
Weights = Tensor | Sequence[float]


class VoxelKeywords(TypedDict, total=False):
    """Keywords of every loss, see :mod:`segloss_fast.losses`."""

    activation: str
    include_background: bool
    batch: bool
    class_weight: Weights | None
    ignore_index: int | None
    reduction: str
    sync: bool | str | ProcessGroup
    impl: str


class RegionKeywords(VoxelKeywords, total=False):
    """Keywords of the losses that are a ratio of sums, see :mod:`segloss_fast.losses`."""

    smooth_nr: float
    smooth_dr: float
    absent: str


@dataclass(frozen=True)
class Voxel:
    """Checked VoxelKeywords."""

    activation: str = "softmax"
    include_background: bool = True
    batch: bool = False
    class_weight: Weights | None = None
    ignore_index: int | None = None
    reduction: str = "mean"
    sync: bool | str | ProcessGroup = False
    impl: str = "auto"

    def __post_init__(self) -> None:
        check_option("activation", self.activation, ACTIVATIONS)
        check_option("reduction", self.reduction, REDUCTIONS)
        check_impl(self.impl)
        for name in ("include_background", "batch"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Region(Voxel):
    """Checked RegionKeywords."""

    smooth_nr: float = 1e-5
    smooth_dr: float = 1e-5
    absent: str = "keep"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("smooth_nr", self.smooth_nr, minimum=0)
        check_number("smooth_dr", self.smooth_dr, minimum=0)
        check_option("absent", self.absent, ("keep", "skip"))


def check_number(
    name: str, value: object, *, minimum: float = -math.inf, maximum: float = math.inf
) -> None:
    """Raise unless ``value`` is a finite number within the bounds."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not (minimum <= value <= maximum and math.isfinite(value)):
        bounds = "".join(
            [
                f" of at least {minimum:g}" if minimum > -math.inf else "",
                f" of at most {maximum:g}" if maximum < math.inf else "",
            ]
        )
        raise ValueError(f"{name} must be a finite number{bounds}, got {value}")
