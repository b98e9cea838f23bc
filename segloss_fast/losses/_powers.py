"""Powers of the distances to masks' boundaries, which Hausdorff losses add up."""

from __future__ import annotations

from torch import Tensor

from segloss_fast._check import writable
from segloss_fast.losses._keywords import Spacing, check_spacing
from segloss_fast.ops.distance_transform import add_distances, bounded_distances

DIRECT = (1, 2)  # powers that the transform itself returns


def powers(mask: Tensor, spacing: Spacing | None, alpha: float, impl: str) -> Tensor:
    """Return each voxel's distance to its mask's boundary, 0 without one, to the power alpha.

    Args:
        mask: ``[B, C, *S]`` bool.
        spacing: Unchecked.
        alpha: The exponent.
        impl: Of distance_transform.

    Returns:
        float32 ``[B, C, *S]``.
    """
    spacing = check_spacing(spacing)
    field = bounded_distances(mask, spacing, side="both", squared=alpha != 1, impl=impl)
    return field if alpha in DIRECT else field.pow_(alpha / 2)


def add_powers(
    total: Tensor, mask: Tensor, spacing: Spacing | None, alpha: float, impl: str
) -> Tensor:
    """Return the sum of a total, which may be written to, and of :func:`powers`.

    Args:
        total: float32 ``[B, C, *S]``.
        mask: As for powers.
        spacing: As for powers.
        alpha: As for powers.
        impl: As for powers.
    """
    if alpha in DIRECT:
        spacing, squared = check_spacing(spacing), alpha == 2
        return add_distances(total, mask, spacing, side="both", squared=squared, impl=impl)
    known = powers(mask, spacing, alpha, impl)
    return writable(total, known).add_(known)
