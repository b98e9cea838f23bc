"""structural_error by Triton kernels: groups of planes, and of each one launch per map and axis.

Sizes, strides, the window and the numbers are runtime arguments: a new kernel is compiled only for
another dtype or alignment, where voxels of a slice are apart, or have one axis alone.

A group is as many planes (items and classes) as have their maps in GROUP_BYTES, at least one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from segloss_fast.ops._triton.launch import Launch, device_of
from segloss_fast.ops._triton.views import without_bools
from segloss_fast.ops.structural_error import triton_kernels, triton_windows
from segloss_fast.ops.structural_error.reference import MAX_WINDOW

GROUP_BYTES = 64 * 2**20  # several planes fill a GPU where they are small
ROWS, COLS = triton_windows.ROWS.value, triton_windows.COLS.value


def forward(
    values: Tensor, target: Tensor, window_size: int, sigma: float, constant: float, first: int
) -> Tensor:
    """Return the errors, with strides as of torch.empty_like; arguments as of the reference."""
    _check_like(values, target)
    work = begin(values, window_size, sigma, constant, first)
    with device_of(values):
        for launch in error_launches(work, values, target):
            launch()
    return work.out


def backward(
    grad: Tensor,
    values: Tensor,
    target: Tensor,
    window_size: int,
    sigma: float,
    constant: float,
    first: int,
) -> Tensor:
    """Return the gradient of the values, given that of the errors."""
    _check_like(values, target)
    _check_like(values, grad)
    work = begin(values, window_size, sigma, constant, first)
    with device_of(values):
        for launch in gradient_launches(work, grad, values, target):
            launch()
    return work.out


def _check_like(values: Tensor, other: Tensor) -> None:
    """Raise ValueError where the kernels would read beyond a tensor."""
    if other.shape != values.shape or other.device != values.device:
        raise ValueError(
            f"structural_error needs tensors of the shape {list(values.shape)} on {values.device}, "
            f"got {list(other.shape)} on {other.device}"
        )


def begin(values: Tensor, window_size: int, sigma: float, constant: float, first: int) -> Work:
    """Return the call, with a result in which classes that are left out are 0."""
    if not 1 <= window_size <= MAX_WINDOW or window_size % 2 == 0:
        raise ValueError(
            f"window_size must be odd, at least 1 and at most {MAX_WINDOW}, got {window_size}"
        )
    out = torch.empty_like(values)
    first = min(first, values.shape[1])
    out[:, :first].zero_()
    return Work(out, values.new_empty(window_size), sigma, constant, first)


def error_launches(work: Work, values: Tensor, target: Tensor) -> Iterator[Launch]:
    """Return what writes the errors."""
    for group in work.groups(2 * (work.axes - 1)):
        if group.plane == 0:
            yield work.weights()
        yield from group.error(values, target)


def gradient_launches(work: Work, grad: Tensor, values: Tensor, target: Tensor) -> Iterator[Launch]:
    """Return what writes the gradient."""
    for group in work.groups(2 * work.axes + min(2, work.axes)):
        if group.plane == 0:
            yield work.weights()
        yield from group.gradient(grad, values, target)


@dataclass(frozen=True)
class Work:
    """One call: its sizes, the window, the constant.

    Attributes:
        out: Where the result goes, ``[B, C, *S]`` in the dtype of the values.
        window: Room for the weights along an axis, in the same dtype; its size is the window's.
        sigma: Of the Gaussian.
        constant: c.
        first: Classes below it are left out.
    """

    out: Tensor
    window: Tensor
    sigma: float
    constant: float
    first: int

    @property
    def axes(self) -> int:
        """Number of axes of S."""
        return self.out.dim() - 2

    @property
    def planes(self) -> int:
        """Number of items and classes that are not left out."""
        return self.out.shape[0] * (self.out.shape[1] - self.first)

    @property
    def space(self) -> tuple[int, int, int]:
        """S as three sizes; of an image the rows are slices."""
        return _three(self.out.shape[2:], 1)

    def groups(self, maps: int) -> Iterator[Group]:
        """Cut the planes, of each of which so many maps are kept at a time."""
        voxels = math.prod(self.space)
        if self.planes == 0 or voxels == 0:
            return
        held = GROUP_BYTES // max(1, maps * voxels * self.out.element_size())
        size = min(self.planes, max(1, held))
        room = self.out.new_empty((maps, -(-size * voxels // 4) * 4))  # all aligned to 16 bytes
        for plane in range(0, self.planes, size):
            yield Group(self, plane, min(size, self.planes - plane), list(room.unbind()))

    def weights(self) -> Launch:
        """Return what writes the window."""
        arguments = {"window": self.window, "radius": self.radius, "sigma": self.sigma}
        return Launch(triton_kernels.window_weights, (1,), arguments, {}, fusion=False)

    @property
    def radius(self) -> int:
        """Voxels of the window on either side."""
        return self.window.shape[0] // 2


class Maps(NamedTuple):
    """The maps that a group's moments are in.

    Attributes:
        means: After each axis.
        variances: After one axis and the next, in turn; then the gradients of variances.
        grads: Of the means, and before these are there the rests of the means' rounding.
    """

    means: list[Tensor]
    variances: list[Tensor]
    grads: list[Tensor] = []  # noqa: RUF012


@dataclass(frozen=True)
class Group:
    """Planes that are worked on at a time.

    Attributes:
        work: The call.
        plane: The first of them, counted over items and classes that are not left out.
        count: Their number.
        room: Scratch memory: maps of the group, each flat.
    """

    work: Work
    plane: int
    count: int
    room: list[Tensor]

    def error(self, values: Tensor, target: Tensor) -> Iterator[Launch]:
        """Return what writes the errors, from 2 (axes - 1) maps."""
        pair = self.work.axes - 1  # a pass cannot write where its neighbours read
        maps = Maps(self.room[:pair], self.room[pair:])
        for x, result in ((target, triton_kernels.NORMALIZED), (values, triton_kernels.ERROR)):
            yield from self._moments(x, maps, rest=False)
            yield self._finish(x, maps, result)

    def gradient(self, grad: Tensor, values: Tensor, target: Tensor) -> Iterator[Launch]:
        """Return what writes the gradient, from 3, 6 or 8 maps for 1 to 3 axes."""
        axes = self.work.axes
        maps = Maps(self.room[:axes], self.room[2 * axes :], self.room[axes : 2 * axes])
        yield from self._moments(target, maps, rest=False)
        yield self._finish(target, maps, triton_kernels.NORMALIZED)
        yield from self._moments(values, maps, rest=True)
        yield self._finish(values, maps, triton_kernels.GRADIENTS, grad)
        for k in reversed(range(axes)):
            arguments: dict[str, Any] = {
                "mean": maps.means[k],
                "grad_mean": maps.grads[k],
                "grad_variance": maps.variances[k % 2],
            }
            if k > 0:
                arguments["mean_in"] = maps.means[k - 1]
                arguments["grad_mean_in"] = maps.grads[k - 1]
                arguments["grad_variance_in"] = maps.variances[1 - k % 2]
                yield self._launch(triton_kernels.differentiate_along, k, arguments)
            else:
                arguments |= {**_view("x", values), **_view("o", self.work.out), **self._placing()}
                yield self._launch(triton_kernels.differentiate_first, k, arguments)

    def _moments(self, x: Tensor, maps: Maps, rest: bool) -> Iterator[Launch]:
        """Return what writes the moments along all axes but the last one to be done."""
        for k in range(self.work.axes - 1):
            arguments: dict[str, Any] = {
                "mean_out": maps.means[k],
                "variance_out": maps.variances[k % 2],
                "rest_out": maps.grads[k] if rest else maps.means[k],
            }
            if k > 0:
                arguments["mean_in"] = maps.means[k - 1]
                arguments["variance_in"] = maps.variances[1 - k % 2]
                yield self._launch(triton_kernels.moments_along, k, arguments, REST=rest)
            else:
                arguments |= {**_view("x", x), **self._placing()}
                yield self._launch(triton_kernels.first_moments, k, arguments, REST=rest)

    def _finish(
        self, x: Tensor, maps: Maps, result: tl.constexpr, grad: Tensor | None = None
    ) -> Launch:
        """Return the moments along the axis that is left, and what follows from them."""
        k, out = self.work.axes - 1, self.work.out
        before = (maps.means[k - 1], maps.variances[1 - k % 2]) if k > 0 else (out, out)
        after = (out, out, out)  # of which none is written
        if grad is not None:
            after = (maps.means[k], maps.grads[k], maps.variances[k % 2])
        arguments = {
            **dict(zip(("mean_in", "variance_in"), before, strict=True)),
            **dict(zip(("mean_out", "grad_mean", "grad_variance"), after, strict=True)),
            **{**_view("x", x), **_view("o", out), **_view("g", out if grad is None else grad)},
            **self._placing(),
            "constant": self.work.constant,
        }
        return self._launch(triton_kernels.finish, k, arguments, RESULT=result.value, ONLY=k == 0)

    def _placing(self) -> dict[str, int]:
        """Where planes and voxels are in tensors of the call's shape."""
        first = self.work.first
        own = {"plane": self.plane, "channels": self.work.out.shape[1] - first, "first": first}
        return own | dict(zip(("n0", "n1", "n2"), self.work.space, strict=True))

    def _launch(
        self,
        kernel: Any,
        k: int,
        arguments: dict[str, Any],
        **constants: Any,
    ) -> Launch:
        """Return the launch of pass k: along the last axis, the one before, the first at last."""
        n0, n1, n2 = self.work.space
        if k == 0:
            outer, rows, cols = 1, self.count * n0 * n1, n2
        elif k == self.work.axes - 1:
            outer, rows, cols = self.count, n0, n1 * n2
        else:
            outer, rows, cols = self.count * n0, n1, n2
        row_blocks, col_blocks = -(-rows // ROWS), -(-cols // COLS)
        tiling = {"rows": rows, "cols": cols, "row_blocks": row_blocks, "col_blocks": col_blocks}
        window = {"window": self.work.window, "radius": self.work.radius}
        in_place = [name[:1] for name in arguments if name.endswith("_s2")]
        if in_place:
            constants["UNIT"] = all(
                arguments[f"{name}_s2"] == 1 and (n1 == 1 or arguments[f"{name}_s1"] == n2)
                for name in in_place
            )
        # No fusion: where both maps are equal, so must be what their kernels make of them.
        return Launch(
            kernel,
            (outer * row_blocks * col_blocks,),
            {**arguments, **tiling, **window},
            constants,
            fusion=False,
        )


def _three(numbers: Sequence[int], missing: int) -> tuple[int, int, int]:
    """Return sizes or strides of one to three axes as those of three."""
    first, *between = numbers[:-1] or (missing,)
    return first, between[0] if between else missing, numbers[-1]


def _view(name: str, tensor: Tensor) -> dict[str, Any]:
    """Describe ``[B, C, *S]``; its strides are named by an initial."""
    tensor = without_bools(tensor) if name == "x" else tensor  # the others are no truth values
    steps = (*tensor.stride()[:2], *_three(tensor.stride()[2:], 0))
    keys = (f"{name}_{step}" for step in ("bs", "cs", "s0", "s1", "s2"))
    whole = {"x": "x", "o": "out", "g": "grad"}[name]
    return {whole: tensor, **dict(zip(keys, steps, strict=True))}
