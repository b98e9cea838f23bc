"""Skeletons as SkeletonRecallLoss reads them, to be made in the data loader."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import torch
from torch import Tensor
from torch.nn import functional

from segloss_fast import _check
from segloss_fast.ops._voxels.labels import can_hold

POOLS = (
    functional.adaptive_max_pool1d,
    functional.adaptive_max_pool2d,
    functional.adaptive_max_pool3d,
)
FLOAT_INTEGERS = 2**24  # up to here every integer is a float32


@overload
def tubed_skeleton(
    skeleton: Tensor,
    labels: Tensor,
    radius: int = 2,
    *,
    ignore_index: int | None = None,
    level_shapes: None = None,
    batched: bool = True,
) -> Tensor: ...


@overload
def tubed_skeleton(
    skeleton: Tensor,
    labels: Tensor,
    radius: int = 2,
    *,
    ignore_index: int | None = None,
    level_shapes: Iterable[Sequence[int]],
    batched: bool = True,
) -> list[Tensor]: ...


@torch.no_grad()
def tubed_skeleton(
    skeleton: Tensor,
    labels: Tensor,
    radius: int = 2,
    *,
    ignore_index: int | None = None,
    level_shapes: Iterable[Sequence[int]] | None = None,
    batched: bool = True,
) -> Tensor | list[Tensor]:
    """Return the skeleton thickened to a tube and labelled, as :class:`SkeletonRecallLoss` needs.

    >>> line = torch.tensor([[0, 0, 0, 0, 1, 0]])
    >>> segloss_fast.tubed_skeleton(line, torch.tensor([[0, 0, 2, 2, 2, 1]]))
    tensor([[0, 0, 2, 2, 2, 1]])

    The tube holds the voxels within ``radius`` steps along the axes of a voxel of the skeleton, and
    each has the label of its own voxel: 0 outside of all structures. Skeletonise all classes
    together (``labels > 0``), so that nothing happens where two of them touch.
    Source: Kirchhoff et al. 2024, https://arxiv.org/abs/2404.03010.

    Args:
        skeleton: ``[B, *S]`` or ``[B, 1, *S]``, bool or numbers, not 0 on the skeleton; from
            ``skimage.morphology.skeletonize``, for example.
        labels: Class indices of the same shape.
        radius: How many steps, at least 0.
        ignore_index: The label of ignored voxels, which get 0.
        level_shapes: The spatial shapes of the levels of deep supervision, if there are any. A
            voxel of a smaller level has the largest label that the voxels in its place have, so
            that thin tubes survive, which would break if the nearest voxel was taken.
        batched: Whether there is a batch axis; with False one sample ``[*S]`` or ``[1, *S]``, as in
            ``__getitem__`` of a data set.

    Returns:
        A tensor like ``labels``; with ``level_shapes`` a list of one for each of them.

    Raises:
        TypeError: If an argument's type or dtype is not one of those above.
        ValueError: If a shape or the radius is not, or a level is larger than the labels.
    """
    _check.check_dtype("skeleton", skeleton, _check.REAL)
    _check.check_dtype("labels", labels, _check.REAL)
    _check.check_device("skeleton", skeleton, labels)
    _check.check_ignore_index(ignore_index)
    _check.check_flag("batched", batched)
    if skeleton.shape != labels.shape or not 1 <= labels.dim() - batched <= 4:
        raise ValueError(
            "skeleton and labels must have the same shape, with one to three spatial dimensions, "
            f"got {list(skeleton.shape)} and {list(labels.shape)}"
        )
    if not isinstance(radius, int) or isinstance(radius, bool):
        raise TypeError(f"radius must be an int, got {type(radius).__name__}")
    if radius < 0:
        raise ValueError(f"radius must be at least 0, got {radius}")
    tube = skeleton != 0
    for _ in range(radius):
        tube = _grown(tube, first=int(batched))
    if ignore_index is not None and can_hold(labels.dtype, ignore_index):
        tube &= labels != ignore_index
    found = labels.masked_fill(~tube, 0)
    if level_shapes is None:
        return found
    return [_pooled(found, list(shape), batched) for shape in level_shapes]


def _grown(mask: Tensor, first: int) -> Tensor:
    """Return the mask with the voxels one step along an axis away, from the axis ``first`` on."""
    grown = mask.clone()
    for axis in range(first, mask.dim()):
        length = mask.shape[axis]
        if length > 1:
            grown.narrow(axis, 1, length - 1).logical_or_(mask.narrow(axis, 0, length - 1))
            grown.narrow(axis, 0, length - 1).logical_or_(mask.narrow(axis, 1, length - 1))
    return grown


def _pooled(labels: Tensor, shape: list[int], batched: bool) -> Tensor:
    """Return the largest label in each cell of a level of this spatial shape."""
    before = list(labels.shape[labels.dim() - len(shape) :])
    if len(shape) not in (1, 2, 3) or labels.dim() - batched not in (len(shape), len(shape) + 1):
        raise ValueError(
            f"level_shapes must have a size for each spatial axis of labels, {list(labels.shape)}, "
            f"got {shape}"
        )
    if any(new < 1 or new > old for new, old in zip(shape, before, strict=True)):
        raise ValueError(f"level_shapes must lie between 1 and {before}, got {shape}")
    if shape == before or labels.numel() == 0:
        return labels.new_zeros(*labels.shape[: -len(shape)], *shape) if shape != before else labels
    if labels.amax() > FLOAT_INTEGERS:
        raise ValueError(f"labels must be at most 2**24 for level_shapes, got {labels.amax()}")
    planes = labels.reshape(-1, 1, *before).float()
    pooled: Tensor = POOLS[len(shape) - 1](planes, shape)
    return pooled.to(labels.dtype).view(*labels.shape[: -len(shape)], *shape)
