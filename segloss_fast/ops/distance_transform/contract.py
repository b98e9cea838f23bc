"""distance_transform as callers see it: the checks and the choice of implementation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from segloss_fast import _check
from segloss_fast._impl import resolve, transforms_active
from segloss_fast.ops._operator import preference
from segloss_fast.ops.distance_transform import op, reference
from segloss_fast.ops.distance_transform.reference import SIDES
from segloss_fast.ops.distance_transform.spacing import check_ratio, check_squares, per_axis

LONGEST = 2**30  # voxels along an axis, from which on no kernel counts in 32 bits
DTYPES = (*_check.REAL, torch.uint16, torch.uint32, torch.uint64)


def distance_transform(
    mask: Tensor,
    spacing: float | Iterable[float] | None = None,
    *,
    side: str = "inside",
    squared: bool = False,
    impl: str = "auto",
) -> Tensor:
    """Return each voxel's exact Euclidean distance to the nearest voxel of the mask's other side.

    >>> mask = torch.tensor([[[0, 1, 1, 1, 1, 0]]])
    >>> segloss_fast.distance_transform(mask, spacing=0.5).tolist()
    [[[0.0, 0.5, 1.0, 1.0, 0.5, 0.0]]]

    Distances are between voxel centres. Every item and channel is a mask of its own. The formula
    and its source stand in the docstring of :mod:`segloss_fast.ops.distance_transform`.

    A mask without the other side has no boundary: the distance is +inf there (and -inf inside of a
    full mask for ``"signed"``). Not differentiable: the result never requires grad.

    Args:
        mask: ``[B, C, *S]``, S of one to three dimensions, any strides; bool, any integer, float16,
            bfloat16, float32 or float64. Nonzero is inside, and so is NaN.
        spacing: The distance between neighbouring voxels in any unit, which becomes the unit of the
            result: one number, or one for each axis of S, between 1e-30 and 1e30. None is 1.
        side: ``"inside"``: of the voxels inside the mask to the nearest outside, 0 elsewhere.
            ``"outside"``: of those outside to the nearest inside, 0 elsewhere. ``"both"``: their
            sum, of which one term is 0 at every voxel. ``"signed"``: outside minus inside.
        squared: Return squares of the distances instead, with the sign kept under ``"signed"``.
            With unit spacing they are exact integers up to 2^24.
        impl: ``"auto"``, ``"reference"``, ``"native"`` or ``"triton"``. ``"auto"`` computes with
            SciPy, where it is installed, on a CPU for which there are no kernels.

    Returns:
        float32 ``[B, C, *S]`` in the unit of ``spacing`` or its square. Contiguous; from kernels,
        where the axes of S lie in another order in the mask's memory, as in volumes that NumPy
        calls Fortran-contiguous, in that order.

    Raises:
        TypeError: If an argument's type or dtype is not one of those above.
        ValueError: If the mask's shape, the number of spacings, an option or its value is not; a
            spacing must be finite, greater than 0, between 1e-30 and 1e30, and at most 1e25 times
            that of another axis; squares must fit into float32; an axis has less than 2^30 voxels.
        RuntimeError: If ``impl`` names kernels that are not available for this call.
    """
    _check.check_option("side", side, SIDES)
    return _distances(mask, spacing, side, squared, False, impl)


def bounded_distances(
    mask: Tensor,
    spacing: float | Iterable[float] | None = None,
    *,
    side: str = "both",
    squared: bool = False,
    impl: str = "auto",
) -> Tensor:
    """Return :func:`distance_transform`, but 0 at the voxels of a mask without a boundary.

    The arguments, the result and the errors are those of it.
    """
    return _distances(mask, spacing, side, squared, True, impl)


def add_distances(
    sum: Tensor,
    mask: Tensor,
    spacing: float | Iterable[float] | None = None,
    *,
    side: str = "both",
    squared: bool = False,
    impl: str = "auto",
) -> Tensor:
    """Add :func:`bounded_distances` to a sum, and return that: the last pass adds, where it can.

    Args:
        sum: ``[B, C, *S]`` float32; it is written to, unless it is less of a batch than the
            distances are, under ``torch.func.vmap``.
        mask: As of :func:`distance_transform`, and so the other arguments.
        spacing: As of :func:`distance_transform`.
        side: As of :func:`distance_transform`.
        squared: As of :func:`distance_transform`.
        impl: As of :func:`distance_transform`.
    """
    spacings, chosen = _prepared(mask, spacing, squared, impl)
    in_place = chosen in ("native", "triton") and memory_order(mask) is None
    if in_place and sum.is_contiguous() and sum.shape == mask.shape:
        op.call_add(sum, mask.detach(), spacings, side, squared, chosen)
        return sum
    known = bounded_distances(mask, spacing, side=side, squared=squared, impl=impl)
    return _check.writable(sum, known).add_(known)


def _prepared(
    mask: Tensor, spacing: float | Iterable[float] | None, squared: bool, impl: str
) -> tuple[list[float], str]:
    """Check the arguments; return the spacings and the implementation."""
    check_volumes("mask", mask, DTYPES)
    if not isinstance(squared, bool):
        raise TypeError(f"squared must be a bool, got {type(squared).__name__}")
    spacings = per_axis(spacing, mask.dim() - 2, "mask")
    check_ratio(spacings)
    if squared:
        check_squares(spacings, mask.shape[2:])
    impl = resolve(
        impl,
        (*preference(mask.device), "scipy"),
        lambda name: op.kernels.why_not(name, mask.device) or no_kernel(),
        mask,
    )
    return spacings, impl


def _distances(
    mask: Tensor,
    spacing: float | Iterable[float] | None,
    side: str,
    squared: bool,
    bounded: bool,
    impl: str,
) -> Tensor:
    spacings, impl = _prepared(mask, spacing, squared, impl)
    mask = mask.detach()
    if impl in ("reference", "scipy"):
        compute = reference.forward if impl == "reference" else op.kernels.step(impl, "forward")
        found: Tensor = compute(mask, spacings, side, squared)
        # Infinite where there is no boundary, and there only.
        return found.nan_to_num_(posinf=0, neginf=0) if bounded else found
    axes = memory_order(mask)
    if axes is None:
        return op.call(mask, spacings, side, squared, impl, bounded)
    spacings = [spacings[axis - 2] for axis in axes]
    found = op.call(mask.permute(0, 1, *axes), spacings, side, squared, impl, bounded)
    return found.permute(back_from(axes))


def memory_order(mask: Tensor) -> list[int] | None:
    """Return the order of the spatial axes in which a tensor is contiguous, if it is another one.

    The kernels read rows along the last axis: in memory's order that is a quarter of the time.
    """
    if mask.is_contiguous():
        return None
    stride = mask.stride()
    axes = sorted(range(2, mask.dim()), key=lambda axis: -stride[axis])
    return axes if mask.permute(0, 1, *axes).is_contiguous() else None


def back_from(axes: list[int]) -> list[int]:
    """Return the permutation of all axes that undoes this one of the spatial axes."""
    return [0, 1, *(2 + axes.index(2 + axis) for axis in range(len(axes)))]


def no_kernel() -> str | None:
    """Return why no kernel serves this call, None where one may."""
    if transforms_active():
        return "the transforms of torch.func and forward mode are served by the reference only"
    return None


def check_volumes(name: str, tensor: object, dtypes: Sequence[torch.dtype]) -> None:
    """Raise unless this is a tensor ``[B, C, *S]`` of one of the dtypes."""
    _check.check_dtype(name, tensor, dtypes)
    assert isinstance(tensor, Tensor)
    if not 3 <= tensor.dim() <= 5:
        raise ValueError(
            f"{name} must be [B, C, *S] with one to three spatial dimensions, "
            f"got shape {list(tensor.shape)}"
        )
    if any(size >= LONGEST for size in tensor.shape[2:]):
        raise ValueError(
            f"{name} must have less than {LONGEST} voxels along each axis, "
            f"got shape {list(tensor.shape)}"
        )
