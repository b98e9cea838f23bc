"""connected_components as callers see it: the checks and the choice of implementation."""

from __future__ import annotations

from torch import Tensor

from segloss_fast import _check
from segloss_fast._impl import resolve
from segloss_fast.ops._operator import preference
from segloss_fast.ops.connected_components import op
from segloss_fast.ops.connected_components.record import Components
from segloss_fast.ops.connected_components.reference import CONNECTIVITIES, UNSIGNED

INTEGER = (*_check.INTEGER, *UNSIGNED)
DTYPES = (*_check.FLOATING, *INTEGER)
# By number of axes, how many neighbours a voxel has if their places differ along so many axes.
NEIGHBOURS = {1: {2: 1}, 2: {4: 1, 8: 2}, 3: {6: 1, 18: 2, 26: 3}}
MOST_VOXELS = 2**31 - 1


def connected_components(
    labels: Tensor,
    *,
    connectivity: str | int = "full",
    by_value: bool = False,
    ignore_index: int | None = None,
    impl: str = "auto",
) -> Components:
    """Return the connected components of every mask, numbered in raster order.

    >>> mask = torch.tensor([[[1, 1, 0, 1, 0, 1]]])
    >>> found = segloss_fast.connected_components(mask)
    >>> found.labels.tolist(), found.count.tolist()
    ([[[1, 1, 0, 2, 0, 3]]], [[3]])

    Numbers run from 1 on in the order of the components' first voxels, the last axis fastest,
    whatever the device, the layout in memory and the number of threads: as
    ``scipy.ndimage.label`` numbers. What a component is stands in the docstring of
    :mod:`segloss_fast.ops.connected_components`. Not differentiable.

    Args:
        labels: ``[B, C, *S]``, S of one to three dimensions, any strides; bool, any integer,
            float16, bfloat16, float32 or float64. Every item and channel is a mask of its own, of
            which nonzero is foreground, and so is NaN. By value class indices ``[B, *S]`` or
            ``[B, 1, *S]``, bool or any integer: a second axis of one is that of the channel.
        connectivity: ``"full"``; ``"faces"``; ``"edges"``, of volumes only; or the number of a
            voxel's neighbours: 2 along a line, 4 or 8 in an image, 6, 18 or 26 in a volume.
        by_value: Connect voxels of equal value only; 0 is background, other values are within the
            range of int32.
        ignore_index: Voxels with this label are background, too.
        impl: ``"auto"``, ``"reference"`` or ``"native"``.

    Returns:
        ``labels`` int32 ``[B, C, *S]``, ``count`` int32 ``[B, C]`` and, by value, ``value`` int32
        ``[B, K]``, the value of each component, K the largest count. On a GPU nothing waits for the
        device, but by value the host reads K: under a compiler that is a size that depends on data
        (``torch._dynamo.config.capture_dynamic_output_shape_ops``), in the capture of a CUDA graph
        an error. From native kernels on the CPU, ``labels`` of a contiguous volume whose axes lie
        in another order in memory lies in that order.

    Raises:
        TypeError: If an argument's type or dtype is not one of those above.
        ValueError: If the shape of labels or an option is not; if S has 2^31 voxels or more; if by
            value a label is out of the range of int32.
        RuntimeError: If ``impl`` names kernels that are not available for this call.
    """
    _check.check_flag("by_value", by_value)
    _check.check_ignore_index(ignore_index)
    labels = _with_channels(labels, by_value)
    differing = _differing(connectivity, labels.dim() - 2)
    impl = resolve(
        impl,
        preference(labels.device),
        lambda name: op.kernels.why_not(name, labels.device),
        labels,
    )
    labels = labels.detach()
    axes = list(range(labels.dim() - 2))
    order = _memory_order(labels) if impl == "native" and labels.device.type == "cpu" else axes
    if order != axes:
        labels = labels.permute(0, 1, *(2 + axis for axis in order))
    components, count, value = op.call(labels, differing, by_value, ignore_index, order, impl)
    if order != axes:
        components = components.permute(0, 1, *(2 + order.index(axis) for axis in axes))
    return Components(components, count, value if by_value else None)


def _with_channels(labels: object, by_value: bool) -> Tensor:
    """Return labels as ``[B, C, *S]``, checked."""
    _check.check_dtype("labels", labels, INTEGER if by_value else DTYPES)
    assert isinstance(labels, Tensor)
    shape = list(labels.shape)
    if by_value:
        if labels.dim() in (2, 3, 4) and not (labels.dim() > 2 and shape[1] == 1):
            labels = labels[:, None]
        if not (3 <= labels.dim() <= 5 and labels.shape[1] == 1):
            raise ValueError(
                "by value, labels must be [B, *S] or [B, 1, *S] with one to three spatial "
                f"dimensions, got shape {shape}"
            )
    elif not 3 <= labels.dim() <= 5:
        raise ValueError(
            f"labels must be [B, C, *S] with one to three spatial dimensions, got shape {shape}"
        )
    if labels.shape[2:].numel() > MOST_VOXELS:
        raise ValueError(
            "labels must have less than 2^31 voxels in each mask, whose components are numbered "
            f"by int32, got shape {shape}"
        )
    return labels


def _differing(connectivity: object, axes: int) -> int:
    """Return along how many axes the places of neighbours may differ."""
    numbers = NEIGHBOURS[axes]
    names = [name for name in CONNECTIVITIES if name != "edges" or axes == 3]
    allowed = ", ".join([*map(repr, names), *map(str, numbers)])
    if isinstance(connectivity, bool) or not isinstance(connectivity, (str, int)):
        raise TypeError(
            f"connectivity must be a str or an int, of {axes} axes one of {allowed}, "
            f"got {type(connectivity).__name__}"
        )
    if isinstance(connectivity, int) and connectivity in numbers:
        return numbers[connectivity]
    if connectivity in names:
        return {"faces": 1, "edges": 2, "full": axes}[str(connectivity)]
    raise ValueError(
        f"connectivity must be, of {axes} spatial axes, one of {allowed}, got {connectivity!r}"
    )


def _memory_order(labels: Tensor) -> list[int]:
    """Return the spatial axes in the order in which they lie in memory, as given where in doubt.

    Rows along the fastest axis are read several times as fast.
    """
    axes = list(range(labels.dim() - 2))
    strides, sizes = labels.stride()[2:], labels.shape[2:]
    long = [axis for axis in axes if sizes[axis] > 1]
    found = list(long)
    for _ in long:  # not sorted, which compilers cannot with sizes that change
        for i in range(len(found) - 1):
            if strides[found[i]] < strides[found[i + 1]]:
                found[i : i + 2] = found[i + 1], found[i]
    if found == long or any(strides[axis] == 0 for axis in long):  # nor where one is expanded
        return axes
    return [axis for axis in axes if sizes[axis] <= 1] + found
