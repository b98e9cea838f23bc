"""The keywords that losses have in common: their types, defaults and checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, TypedDict

from torch import Tensor
from typing_extensions import Self

from segloss_fast._check import (
    check_flag,
    check_ignore_index,
    check_number,
    check_option,
    check_positive,
    is_dense,
)
from segloss_fast._impl import check_impl
from segloss_fast._sync import Ranks, check_pooled, check_sync, ranks_of
from segloss_fast.ops.connected_components import CONNECTIVITIES
from segloss_fast.ops.region_sums import ACTIVATIONS, RegionSums

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch.distributed import ProcessGroup

    Weights = Tensor | Sequence[float] | NDArray[Any]
else:
    Weights = Tensor | Sequence[float]

REDUCTIONS = ("mean", "sum", "none")
Spacing = float | Iterable[float]


class VoxelKeywords(TypedDict, total=False):
    """Keywords of every loss, see :mod:`segloss_fast.losses`."""

    activation: str
    include_background: bool
    batch: bool
    class_weight: Weights | None
    ignore_index: int | None
    reduction: str
    sync: bool | str | ProcessGroup
    shards: bool
    impl: str


class RatioKeywords(VoxelKeywords, total=False):
    """Keywords of the losses that are a ratio of sums, see :mod:`segloss_fast.losses`."""

    smooth_dr: float
    absent: str


class RegionKeywords(RatioKeywords, total=False):
    """Keywords of those whose numerator is smoothed too, which most are."""

    smooth_nr: float


ABSENT = ("keep", "skip", "zero")


class OverlapKeywords(RegionKeywords, total=False):
    """Keywords of those that compare an overlap, which may be that of soft values."""

    soft_label: bool


class ComponentKeywords(RegionKeywords, total=False):
    """Keywords of those that look at the components of the target."""

    lambda_dice: float
    lambda_ce: float
    lambda_global: float
    connectivity: str | int | None
    max_components: int | None


class PresentKeywords(ComponentKeywords, total=False):
    """Keywords of those that leave out, unless told otherwise, what has no component."""


@dataclass(frozen=True)
class Voxel:
    """Checked VoxelKeywords.

    ``_source`` is no keyword of users: what to call instead of region_sums, with its arguments.
    There deep supervision computes the sums of all levels, in one launch.
    """

    activation: str = "softmax"
    include_background: bool = True
    batch: bool = False
    class_weight: Weights | None = None
    ignore_index: int | None = None
    reduction: str = "mean"
    sync: bool | str | ProcessGroup = False
    shards: bool = False
    impl: str = "auto"
    _source: Callable[..., RegionSums] | None = None

    def __post_init__(self) -> None:
        check_option("activation", self.activation, ACTIVATIONS)
        check_option("reduction", self.reduction, REDUCTIONS)
        check_impl(self.impl)
        check_flag("include_background", self.include_background)
        check_flag("batch", self.batch)
        check_weights("class_weight", self.class_weight)
        check_ignore_index(self.ignore_index)
        check_sync(self.sync, self.shards)
        if self.reduction == "none" and self.pools and not self.batch:
            raise ValueError(
                "reduction 'none' with sync needs batch=True, because items are pooled over the "
                "ranks; if the ranks hold parts of the same items, give shards=True to a loss that "
                "takes it"
            )

    @property
    def pools(self) -> bool:
        """Whether the sums of the items are added: over ranks with other items, always."""
        return self.batch or (self.sync is not False and not self.shards)

    def ranks(self, input: Tensor) -> Ranks | None:
        """Return the ranks over which sums are added, if any."""
        return ranks_of(self.sync, self.shards, input)

    def kind(self, sums: str) -> str:
        """Return what sums are, with what else all ranks must have alike to add them."""
        return f"{sums} of {self.activation}, {'pooled' if self.pools else 'by item'}"

    def whole(self, *, field: bool = False) -> Self:
        """Return itself; raise ValueError where a loss would see parts of its items only.

        Args:
            field: Whether the loss can do with a field that was computed from the whole item.
        """
        if self.sync is not False and self.shards:
            raise ValueError(
                "shards must be False for a loss that looks around each voxel, got True: what it "
                "looks for may lie in another rank's part"
                + ("; pass the rank's part of target_field, of the whole item" if field else "")
            )
        return self


@dataclass(frozen=True)
class PerItem(Voxel):
    """Checked VoxelKeywords of a loss whose value depends on the items that are pooled."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_pooled(self.sync, self.shards, self.batch)


@dataclass(frozen=True)
class Ratio(PerItem):
    """Checked RatioKeywords."""

    smooth_dr: float = 1e-5
    absent: str = "keep"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("smooth_dr", self.smooth_dr, minimum=0)
        check_option("absent", self.absent, ABSENT)


@dataclass(frozen=True)
class Region(Ratio):
    """Checked RegionKeywords."""

    smooth_nr: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("smooth_nr", self.smooth_nr, minimum=0)


@dataclass(frozen=True)
class Overlap(Region):
    """Checked OverlapKeywords."""

    soft_label: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("soft_label", self.soft_label)


NEIGHBOURS = (2, 4, 6, 8, 18, 26)  # numbers of them, in one to three dimensions


@dataclass(frozen=True)
class Component(Region):
    """Checked ComponentKeywords."""

    include_background: bool = False
    lambda_dice: float = 1.0
    lambda_ce: float = 1.0
    lambda_global: float = 1.0
    connectivity: str | int | None = None
    max_components: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.whole()
        for name in ("lambda_dice", "lambda_ce", "lambda_global"):
            check_number(name, getattr(self, name))
        check_connectivity(self.connectivity)
        most = self.max_components
        if most is not None and (not isinstance(most, int) or isinstance(most, bool)):
            raise TypeError(f"max_components must be an int or None, got {type(most).__name__}")
        if most is not None and most < 1:
            raise ValueError(f"max_components must be at least 1, got {most}")


@dataclass(frozen=True)
class Present(Component):
    """Checked PresentKeywords."""

    absent: str = "skip"


def check_connectivity(connectivity: object) -> None:
    """Raise unless it can be a connectivity; whether of the dimension shows with the volume."""
    allowed = (*CONNECTIVITIES, *NEIGHBOURS)
    if connectivity is None:
        return
    if isinstance(connectivity, bool) or not isinstance(connectivity, (str, int)):
        raise TypeError(
            "connectivity must be a str or an int, one of "
            f"{', '.join(map(repr, allowed))}, got {type(connectivity).__name__}"
        )
    if connectivity not in allowed:
        raise ValueError(
            f"connectivity must be one of {', '.join(map(repr, allowed))}, got {connectivity!r}"
        )


# By the name that the annotations of ``**keywords`` give them.
RECORDS: dict[str, type] = {
    **{"Voxel": Voxel, "Ratio": Ratio, "Region": Region, "Overlap": Overlap},
    **{"Component": Component, "Present": Present},
}


def check_weights(name: str, weights: object) -> None:
    """Raise unless ``weights`` is None, a row of numbers, or a tensor of one dimension."""
    if isinstance(weights, Tensor):
        if not is_dense(weights):
            raise TypeError(f"{name} must be a dense tensor, got one of {weights.layout}")
        if weights.dim() != 1:
            raise ValueError(f"{name} must be a number per class, got shape {list(weights.shape)}")
    elif isinstance(weights, Sequence) and not isinstance(weights, str):
        for weight in weights:
            check_number(name, weight)
    elif weights is not None:
        raise TypeError(f"{name} must hold a number per class, got {type(weights).__name__}")


def check_spacing(spacing: object) -> float | tuple[float, ...] | None:
    """Return the spacing as a number, a tuple, or None; raise unless all are greater than 0.

    Whether there is one per axis shows when the volume comes.
    """
    if isinstance(spacing, Tensor):
        spacing = spacing.tolist()
    if spacing is None or isinstance(spacing, (int, float)):
        return None if spacing is None else _spacing(spacing)
    if isinstance(spacing, str) or not isinstance(spacing, Iterable):
        raise TypeError(
            f"spacing must be a number, or one for each axis, got {type(spacing).__name__}"
        )
    return tuple(_spacing(value) for value in spacing)


def _spacing(value: object) -> float:
    if isinstance(value, Real) and not isinstance(value, (bool, int)):
        value = float(value)  # of NumPy's types too, which headers of images hold
    check_positive("spacing", value)
    assert isinstance(value, (int, float))
    return value
