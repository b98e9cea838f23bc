"""Problems for the tests of structural_error, and what the reference says in float64."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segloss_fast._check import REAL
from segloss_fast.ops.structural_error import reference
from tests.helpers import relative_l2
from tests.machines import Machine
from tests.ops.distance_transform_cases import LAYOUTS, lay_out

VALUES = (torch.float32, torch.float64)
FAR = 2**31 + 5


@dataclass(frozen=True)
class Case:
    """A call of structural_error, and the gradient of what it returns.

    Attributes:
        values: ``[B, C, *S]``.
        target: ``[B, C, *S]``.
        grad: ``[B, C, *S]`` in the dtype of the values.
        window_size: Voxels along each axis.
        sigma: Of the window.
        constant: c.
        first: Errors of classes below it are 0.
    """

    values: Tensor
    target: Tensor
    grad: Tensor
    window_size: int = 3
    sigma: float = 1.5
    constant: float = 0.01
    first: int = 0

    @property
    def options(self) -> tuple[int, float, float, int]:
        """What the operators take besides tensors."""
        return self.window_size, self.sigma, self.constant, self.first

    def __str__(self) -> str:
        tensors = [
            f"{list(tensor.shape)} {tensor.dtype} {tensor.stride()} at {tensor.storage_offset()}"
            for tensor in (self.values, self.target, self.grad)
        ]
        return f"{tensors} {self.options}"


def solve(case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the errors and the gradient by the reference in a dtype."""
    x = case.values.detach().to(dtype, copy=True).requires_grad_()
    found = reference.forward(x, case.target, *case.options)
    if not found.requires_grad:  # where every class is left out
        return found, torch.zeros_like(x)
    (grad,) = torch.autograd.grad(found, x, case.grad.to(dtype))
    return found.detach(), grad


def check(found: tuple[Tensor, Tensor], case: Case) -> None:
    """Compare with the reference in float64.

    The kernels may be twice as far from it as the reference in float32 is, and 4 epsilons; in
    float64 as many of its epsilons.
    """
    dtype = case.values.dtype
    epsilon, single = torch.finfo(dtype).eps, torch.finfo(torch.float32).eps
    results = zip(found, solve(case, torch.float64), solve(case, torch.float32), strict=True)
    for what, (own, true, rounded) in enumerate(results):
        assert own.dtype == dtype, case
        assert own.shape == true.shape, case
        assert own.stride() == torch.empty_like(case.values).stride(), case
        here = true.isfinite()
        assert torch.equal(own[~here].double().nan_to_num(7), true[~here].nan_to_num(7)), case
        known = true[here]
        allowed = (2 * relative_l2(rounded[here], known) / single + 4) * epsilon
        assert relative_l2(own[here], known) <= allowed, (what, allowed, str(case))


def run(machine: Machine, case: Case) -> tuple[Tensor, Tensor]:
    """Return the errors, and the gradient of the values, by a machine, on the CPU."""
    if machine.impl == "reference":
        return solve(case, case.values.dtype)
    x, t, grad = (machine.place(tensor) for tensor in (case.values, case.target, case.grad))
    found: Tensor = machine.step()(x, t, *case.options)
    gradient: Tensor = machine.step("backward")(grad, x, t, *case.options)
    assert found.device.type == gradient.device.type == machine.device
    return found.cpu(), gradient.cpu()


def compare(machine: Machine, case: Case) -> None:
    """Run a problem and compare with the reference."""
    check(run(machine, case), case)


def maps(
    shape: Sequence[int],
    draw: random.Random,
    dtype: torch.dtype = torch.float32,
    target: torch.dtype = torch.bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, a target and a gradient that are the same numbers in every dtype."""
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    x = torch.rand(tuple(shape), generator=generator)
    t = torch.rand(tuple(shape), generator=generator)
    t = t.half() if target.is_floating_point else 3 * (t > 0.6)
    if target in (torch.bfloat16, torch.float16):
        t = t.to(target)
    grad = torch.randn(tuple(shape), generator=generator)
    return x.to(dtype), t.to(target), grad.to(dtype)


def random_case(draw: random.Random, shapes: Sequence[Sequence[int]]) -> Case:
    """Return a problem of one of these shapes ``[B, C, *S]``."""
    x, t, grad = maps(draw.choice(shapes), draw, draw.choice(VALUES), draw.choice(REAL))
    x, t, grad = (lay_out(tensor, draw.choice(LAYOUTS)) for tensor in (x, t, grad))
    size, first = draw.choice((1, 3, 3, 5, 7, 11)), draw.choice((0, 0, 1, 9))
    sigma, constant = draw.choice((0.4, 0.8, 1.5, 30.0)), draw.choice((0.01, 0.3))
    return Case(x, t, grad, size, sigma, constant, first)


def wild(case: Case) -> Case:
    """Return the problem with a NaN and infinities far enough apart to be told."""
    values, target = case.values.clone(), case.target.clone()
    middle = tuple(n // 2 for n in values.shape[2:])
    values[0, 0][middle] = torch.nan
    values[0, 1][middle] = torch.inf
    if target.is_floating_point():
        target[-1, -1][middle] = -torch.inf
    return replace(case, values=values, target=target)


def far_apart(case: Case, folder: Path) -> Case:
    """Return the problem with all strides beyond 2^31, in files of which only what is used exists.

    Of one item, because files have limits.
    """
    tensors: dict[str, Any] = {}
    for name in ("values", "target", "grad"):
        tensor: Tensor = getattr(case, name)
        strides = [FAR * math.prod(tensor.shape[axis + 1 :]) for axis in range(tensor.dim())]
        room = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, strides, strict=True))
        path = str(folder / name)
        whole = torch.from_file(path, shared=True, size=room, dtype=tensor.dtype)
        tensors[name] = whole.as_strided(tensor.shape, strides).copy_(tensor)
    return replace(case, **tensors)


def nearly_equal(shape: Sequence[int]) -> Case:
    """Return a problem of values whose windows have small deviations, most of them at one voxel.

    There the rounding of means would show in the gradient.
    """
    x, t, grad = maps(shape, random.Random(0))
    return Case(1 - 0.01 * x, t, grad, 3, 0.4, 0.3)
