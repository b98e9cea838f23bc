"""What structural_error promises on every machine: the reference in float64, that convolutions."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segloss_fast._check import REAL
from tests.helpers import relative_l2
from tests.machines import Machine, on, sized
from tests.ops.distance_transform_cases import LAYOUTS, lay_out
from tests.ops.structural_error_cases import (
    VALUES,
    Case,
    check,
    compare,
    maps,
    nearly_equal,
    random_case,
    run,
    solve,
)

kernels = on("native", "interpreted", "cuda")
SIZES = [(1,), (37,), (1, 1), (8, 21), (1, 6, 5), (5, 1, 9), (9, 8, 17), (23, 4, 2)]
SMALL = ((2, 3, 37), (1, 2, 5, 7), (2, 1, 2, 3, 5))
ON_DEVICE = ((2, 3, 3000), (1, 2, 70, 131), (2, 1, 21, 34, 67), (3, 4, 5, 6, 7))
OPTIONS: list[dict[str, Any]] = [
    {"window_size": 3, "sigma": 1.5, "constant": 0.01},
    {"window_size": 7, "sigma": 0.8, "constant": 0.1},
    {"window_size": 1, "sigma": 1.0, "constant": 0.5},
]


def case_of(x: Tensor, t: Tensor, first: int = 0, **options: Any) -> Case:  # noqa: ANN401
    """Return a problem with a random gradient, the same in every dtype."""
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(x.shape, dtype=torch.float64, generator=generator).to(x.dtype)
    return Case(x, t, grad, first=first, **options)


def values_and_mask(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.rand(shape, dtype=dtype, generator=generator)
    return x, torch.rand(shape, generator=generator) > 0.6


def by_convolution(x: Tensor, t: Tensor, window_size: int, sigma: float, constant: float) -> Tensor:
    """Zhao 2019, with padded convolutions of values and squares."""
    axes, radius = x.dim() - 2, window_size // 2
    line = torch.tensor(
        [math.exp(-(d**2) / (2 * sigma**2)) for d in range(-radius, radius + 1)],
        dtype=torch.float64,
    )
    window = line
    for _ in range(axes - 1):
        window = window[..., None] * line
    window = (window / window.sum())[None, None]
    convolve = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]

    def normalized(x: Tensor) -> Tensor:
        flat = x.reshape(-1, 1, *x.shape[2:])
        mean = convolve(flat, window, padding=radius)
        square = convolve(flat**2, window, padding=radius)
        deviation = (square - mean**2).clamp_min(0).sqrt()
        return ((flat - mean + constant) / (deviation + constant)).view_as(x)

    return (normalized(t.double()) - normalized(x)).abs()


@on("reference", "native")
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: str(options["window_size"]))
def test_equals_convolutions(
    machine: Machine, size: tuple[int, ...], options: dict[str, Any]
) -> None:
    case = case_of(*values_and_mask((2, 2, *size)), **options)
    found, grad = run(machine, case)
    # Where a window is equal throughout, rounding of squares gives a deviation of 1e-8.
    x = case.values.requires_grad_()
    true = by_convolution(x, case.target, **options)
    torch.testing.assert_close(found, true.detach(), rtol=1e-5, atol=1e-5)
    if options["window_size"] > 1:
        true.backward(case.grad)
        assert x.grad is not None
        assert relative_l2(grad, x.grad) < 1e-5


@on("native")
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: str(options["window_size"]))
def test_equals_the_reference(
    machine: Machine, size: tuple[int, ...], options: dict[str, Any]
) -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        x, t = values_and_mask((2, 3, *size), dtype)
        for target in (t, t.to(torch.uint8), torch.rand(t.shape), torch.rand(t.shape).half()):
            case = case_of(x, target, first=1, **options)
            found, grad = run(machine, case)
            true, true_grad = solve(case, dtype)
            torch.testing.assert_close(found, true, rtol=tolerance, atol=tolerance)
            assert (grad - true_grad).norm() < tolerance * max(1, true_grad.norm().item())
            assert (found[:, 0] == 0).all()
            assert (grad[:, 0] == 0).all()


@kernels
@sized("seed", range(3), cuda=range(4))
def test_random_problems(machine: Machine, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(machine.pick(6, cuda=40)):
        compare(machine, random_case(draw, machine.pick(SMALL, cuda=ON_DEVICE)))


@kernels
@pytest.mark.parametrize(
    "shape",
    [
        *((16, 4, 1), (1, 2, 33), (17, 1, 2), (4, 4, 1, 1), (1, 1, 17, 33), (1, 1, 33, 2)),
        *((4, 2, 1, 1, 1), (1, 1, 17, 1, 2), (1, 1, 2, 17, 3), (1, 1, 2, 3, 33)),
    ],
    ids=str,
)
def test_shapes_around_a_tile(machine: Machine, shape: Sequence[int]) -> None:
    draw = random.Random(0)
    compare(machine, Case(*maps(shape, draw), draw.choice((3, 5))))


@kernels
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_dtypes_of_the_target(machine: Machine, dtype: torch.dtype) -> None:
    draw = random.Random(0)
    for values in VALUES:
        for layout in machine.pick(("contiguous",), cuda=LAYOUTS):
            shape = machine.pick((1, 2, 3, 5), cuda=(2, 3, 9, 17, 35))
            tensors = maps(shape, draw, values, dtype)
            x, t, grad = (lay_out(tensor, layout) for tensor in tensors)
            compare(machine, Case(x, t, grad))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(machine: Machine, layout: str) -> None:
    if machine.family in ("reference", "native"):
        x, t = values_and_mask((2, 3, 6, 5, 7), torch.float32)
        case = case_of(lay_out(x, layout), lay_out(t, layout), **OPTIONS[0])
        plain = replace(case, values=case.values.contiguous(), target=case.target.contiguous())
        assert all(map(torch.equal, run(machine, case), run(machine, plain)))
    if machine.impl == "reference":  # whose results have strides of their own
        return
    draw = random.Random(0)
    x, t, grad = maps((2, 2, 2, 3, 3), draw, torch.float32, torch.float16)
    other = lay_out(t, draw.choice(LAYOUTS)), lay_out(grad, draw.choice(LAYOUTS))
    compare(machine, Case(lay_out(x, layout), *other, first=1))
    x, t, grad = x[:, :, 0], t[:, :, 0], grad[:, :, 0]
    compare(machine, Case(x, lay_out(t, layout), lay_out(grad, layout)))


@kernels
@sized("space", [(2, 19)], cuda=[(100_003,), (512, 513), (96, 65, 130)])
@sized(
    "window",
    [(1, 1.0), (33, 4.0), (65, 0.7), (65, 1e4)],
    cuda=[(1, 1.0), (3, 1.5), (11, 1.5), (65, 9.0)],
)
def test_windows(machine: Machine, space: Sequence[int], window: tuple[int, float]) -> None:
    for dtype in machine.pick((torch.float32,), cuda=VALUES):
        tensors = maps((1, machine.pick(1, cuda=2), *space), random.Random(0), dtype)
        compare(machine, Case(*tensors, *window, first=machine.pick(0, cuda=1)))


@on("reference", "native", "cuda")
def test_float32_keeps_small_deviations(machine: Machine) -> None:
    t = torch.ones(1, 1, 9, 9, 9, dtype=torch.bool)
    x = 1 - 1e-4 * torch.rand(t.shape, generator=torch.Generator().manual_seed(0))
    found, grad = run(machine, case_of(x, t, **OPTIONS[0]))
    true, true_grad = run(machine, case_of(x.double(), t, **OPTIONS[0]))
    inner = (..., slice(2, -2), slice(2, -2), slice(2, -2))  # beyond the border p and t are 0
    assert relative_l2(found[inner], true[inner]) < 3e-3  # of a difference of 1e-4, and 1e-7 known
    assert relative_l2(grad[inner], true_grad[inner]) < 1e-3


@kernels
@sized(
    "shape",
    [(2, 2, 20), (2, 2, 6, 9), (1, 2, 4, 5, 6)],
    interpreted=[(1, 2, 40), (1, 1, 12, 24), (1, 1, 4, 8, 12)],
    cuda=ON_DEVICE,
)
def test_small_deviations(machine: Machine, shape: Sequence[int]) -> None:
    """The gradient is as exact as plain PyTorch's, though that of a mean's rounding is large."""
    compare(machine, nearly_equal(shape))


@sized("size", [(6, 7)], interpreted=[(7, 9)], cuda=[(33, 34, 35)])
def test_equal_maps_have_no_error_and_a_finite_gradient(
    machine: Machine, size: tuple[int, ...]
) -> None:
    t = torch.zeros(1, 2, *size, dtype=torch.bool)
    t[:, :, 2:4, 1:5] = True
    for target in (t, maps(t.shape, random.Random(0))[1]):
        for result in run(machine, case_of(target.float(), target, **OPTIONS[0])):
            assert (result == 0).all()
    _, grad = run(machine, case_of(torch.full(t.shape, 0.5), t, **OPTIONS[0]))
    assert grad.isfinite().all()


@kernels
@pytest.mark.parametrize("dtype", VALUES, ids=str)
def test_equal_values(machine: Machine, dtype: torch.dtype) -> None:
    """Far from the border the variance is exactly 0, and so is the derivative of its root."""
    x = torch.full((1, 2, 2, 7, 7), 0.3, dtype=dtype)
    no_target, target = torch.zeros_like(x).bool(), torch.full_like(x, 0.9).half()
    # With a small c, two maps of equal values are normalized to nearly the same: their errors are
    # what is left of a difference, and its relative accuracy says nothing about the kernels.
    for values, t, c in ((0.1 * x, no_target, 0.01), (0.7 * x, target, 0.3)):
        found, grad = run(machine, case := Case(values, t, torch.ones_like(x), 5, constant=c))
        check((found, grad), case)
        assert bool(grad.isfinite().all())
    flat = Case(x[:, :, 0], torch.ones_like(x[:, :, 0]), torch.ones_like(x[:, :, 0]))
    found, grad = run(machine, flat)
    assert bool((found[..., 2:-2, 2:-2] == 0).all())
    assert bool((grad[..., 3:-3, 3:-3] == 0).all())


@on("native", sets=True)
def test_instruction_sets(machine: Machine) -> None:
    x, t = values_and_mask((2, 2, 9, 10, 37), torch.float32)
    for options in OPTIONS[:2]:
        case = case_of(x, t, **options)
        for found, true in zip(run(machine, case), solve(case, torch.float32), strict=True):
            assert relative_l2(found, true) < 1e-5
