"""Soft skeletons on the CPU by comparisons of neighbours, where the values are finite.

PyTorch's pooling looks at every voxel's neighbours one by one, and keeps where it found the largest
in eight bytes a voxel. A comparison of a map with itself, moved by a voxel, takes a fraction of the
time. What is found is equal bit by bit, and a gradient goes to the same of equal neighbours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Levels:
    """The skeletons of ``[b, c, *S]`` with the maps of each level that their gradient needs."""

    def __init__(self, values: Tensor, iterations: int) -> None:
        self.eroded = [values.contiguous()]
        self.deltas: list[Tensor] = []
        self.found: list[Tensor] = []
        for _ in range(iterations + 1):
            self.eroded.append(_erode(self.eroded[-1]))
            self.deltas.append((self.eroded[-2] - _dilate(self.eroded[-1])[-1]).relu_())
            if not self.found:
                self.found.append(self.deltas[0])
            else:
                self.found.append(_gain(self.found[-1], self.deltas[-1]).add_(self.found[-1]))

    def differentiate(self, grad: Tensor) -> Tensor:
        """Return the gradient of the values, given that of the skeletons."""
        of_found, of_eroded = grad.contiguous(), None
        for level in reversed(range(len(self.deltas))):
            delta, values = self.deltas[level], self.eroded[level]
            of_delta = of_found
            if level:
                before = self.found[level - 1]
                of_gain = _gain(before, delta).gt_(0).mul_(of_found)
                of_delta = of_gain - before * of_gain
                of_found = of_found - of_gain.mul_(delta)
            of_values = delta.gt(0).to(delta.dtype).mul_(of_delta)
            of_next = _undo_dilation(self.eroded[level + 1], -of_values)
            if of_eroded is not None:
                of_next.add_(of_eroded)
            of_eroded = of_values.add_(_undo_erosion(values, of_next))
        assert of_eroded is not None
        return of_eroded


def skeletons(values: Tensor, iterations: int) -> Tensor:
    """Return the skeletons of ``[b, c, *S]``, floating point, or int8 of 0 and 1."""
    found = None
    values = values.contiguous()
    for _ in range(iterations + 1):
        eroded = _erode(values)
        delta = (values - _dilate(eroded)[-1]).relu_()
        found = delta if found is None else _gain(found, delta).add_(found)
        values = eroded
    assert found is not None
    return found


def _gain(found: Tensor, delta: Tensor) -> Tensor:
    """Return what a level adds to the skeletons."""
    return (delta - found * delta).relu_()


def _pool(values: Tensor, axis: int, pick: Callable[..., Tensor]) -> Tensor:
    """Return the smallest or largest of a voxel and its two neighbours along an axis."""
    size = values.shape[axis]
    if size == 1:
        return values
    pairs = pick(_former(values, axis), _latter(values, axis))
    out = torch.empty_like(values)
    out.narrow(axis, 0, 1).copy_(pairs.narrow(axis, 0, 1))
    out.narrow(axis, size - 1, 1).copy_(pairs.narrow(axis, size - 2, 1))
    if size > 2:
        inner = out.narrow(axis, 1, size - 2)
        pick(_former(pairs, axis), _latter(pairs, axis), out=inner)
    return out


def _undo_pool(values: Tensor, axis: int, found: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient of the values: it goes to the first of equal ones, as in PyTorch."""
    if values.shape[axis] == 1:
        return grad
    to_former = torch.eq(
        _former(values, axis), _latter(found, axis), out=torch.empty_like(_former(values, axis))
    )
    to_former.mul_(_latter(grad, axis))
    rest = grad.clone()
    _latter(rest, axis).sub_(to_former)
    out = torch.eq(values, found, out=torch.empty_like(values)).mul_(rest)
    rest.sub_(out)
    _former(out, axis).add_(to_former)
    _latter(out, axis).add_(_former(rest, axis))
    return out


def _former(map: Tensor, axis: int) -> Tensor:
    """Return all but the last along an axis."""
    return map.narrow(axis, 0, map.shape[axis] - 1)


def _latter(map: Tensor, axis: int) -> Tensor:
    """Return all but the first along an axis."""
    return map.narrow(axis, 1, map.shape[axis] - 1)


def _erode(values: Tensor) -> Tensor:
    return _minima(values)[-1][1]


def _minima(values: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return for each axis the minima along it, and the smallest of these and of those before."""
    found: list[tuple[Tensor, Tensor]] = []
    for axis in range(2, values.dim()):
        along = _pool(values, axis, torch.minimum)
        found.append((along, torch.minimum(found[-1][1], along) if found else along))
    return found


def _undo_erosion(values: Tensor, grad: Tensor) -> Tensor:
    out = None
    minima = _minima(values)
    for axis in reversed(range(len(minima))):
        along = minima[axis][0]
        own = grad
        if axis:  # two equal minima have half of the gradient each
            share = (along - minima[axis - 1][1]).sign_().add_(1).mul_(0.5)
            grad = share.mul_(grad)
            own = own - grad
        part = _undo_pool(values, axis + 2, along, own)
        out = part if out is None else out.add_(part)
    assert out is not None
    return out


def _dilate(values: Tensor) -> list[Tensor]:
    """Return the values, and the maxima along the last axis, then the last two, and so on."""
    found = [values]
    for axis in reversed(range(2, values.dim())):
        found.append(_pool(found[-1], axis, torch.maximum))
    return found


def _undo_dilation(values: Tensor, grad: Tensor) -> Tensor:
    maxima = _dilate(values)
    for step in reversed(range(1, len(maxima))):
        axis = values.dim() - step
        grad = _undo_pool(maxima[step - 1], axis, maxima[step], grad)
    return grad
