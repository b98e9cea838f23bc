"""Tests of structural_error's Triton kernels under Triton's interpreter."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from segloss_fast import backends
from segloss_fast._check import REAL
from segloss_fast.ops.structural_error import reference, structural_error, triton_launch
from segloss_fast.ops.structural_error.op import kernels
from tests.ops.distance_transform_cases import LAYOUTS, lay_out
from tests.ops.structural_error_cases import (
    VALUES,
    Case,
    check,
    compare,
    far_apart,
    maps,
    nearly_equal,
    random_case,
    wild,
)

pytestmark = [
    # Of the interpreter's arithmetic with NaN and infinity, which the tests are about.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.usefixtures("new_tensors_are_nan"),
]

SMALL = ((2, 3, 37), (1, 2, 5, 7), (2, 1, 2, 3, 5))


def run(case: Case) -> tuple[Tensor, Tensor]:
    x, t = case.values, case.target
    found = triton_launch.forward(x, t, *case.options)
    return found, triton_launch.backward(case.grad, x, t, *case.options)


@pytest.mark.parametrize("seed", range(3))
def test_random_problems(seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(6):
        compare(run, random_case(draw, SMALL))


@pytest.mark.parametrize(
    "shape",
    [
        *((16, 4, 1), (1, 2, 33), (17, 1, 2), (4, 4, 1, 1), (1, 1, 17, 33), (1, 1, 33, 2)),
        *((4, 2, 1, 1, 1), (1, 1, 17, 1, 2), (1, 1, 2, 17, 3), (1, 1, 2, 3, 33)),
    ],
    ids=str,
)
def test_shapes_around_a_tile(shape: Sequence[int]) -> None:
    draw = random.Random(0)
    compare(run, Case(*maps(shape, draw), draw.choice((3, 5))))


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_dtypes_of_the_target(dtype: torch.dtype) -> None:
    draw = random.Random(0)
    for values in VALUES:
        compare(run, Case(*maps((1, 2, 3, 5), draw, values, dtype)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    draw = random.Random(0)
    x, t, grad = maps((2, 2, 2, 3, 3), draw, torch.float32, torch.float16)
    other = lay_out(t, draw.choice(LAYOUTS)), lay_out(grad, draw.choice(LAYOUTS))
    compare(run, Case(lay_out(x, layout), *other, first=1))
    x, t, grad = x[:, :, 0], t[:, :, 0], grad[:, :, 0]
    compare(run, Case(x, lay_out(t, layout), lay_out(grad, layout)))


@pytest.mark.parametrize(("window_size", "sigma"), [(1, 1.0), (33, 4.0), (65, 0.7), (65, 1e4)])
def test_windows(window_size: int, sigma: float) -> None:
    compare(run, Case(*maps((1, 1, 2, 19), random.Random(0)), window_size, sigma))


@pytest.mark.parametrize("sigma", [0.02, 0.7, 1.5, 1e6])
def test_weights_are_those_of_the_reference(sigma: float) -> None:
    for window_size in (1, 3, 65):
        work = triton_launch.begin(torch.empty(1, 1, 1).double(), window_size, sigma, 1.0, 0)
        work.weights()()
        true = torch.tensor(reference._gaussian(window_size, sigma), dtype=torch.float64)
        assert bool(((work.window - true).abs() <= 4 * torch.finfo(true.dtype).eps * true).all())


def test_groups_of_planes_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    for shape in ((2, 3, 5), (2, 2, 3, 5), (1, 4, 2, 3, 3)):
        case = Case(*maps(shape, random.Random(0)), first=1)
        together = run(case)
        check(together, case)
        for planes in (3, 1):
            held = planes * 32 * torch.Size(shape[2:]).numel()
            monkeypatch.setattr(triton_launch, "GROUP_BYTES", held if planes > 1 else 0)
            for whole, cut in zip(together, run(case), strict=True):
                assert torch.equal(whole, cut)  # a bit for a bit


def test_scratch_memory_is_of_a_group() -> None:
    for shape, maps_held in (((4, 9, 9, 9), (4, 8)), ((4, 9, 9), (2, 6)), ((4, 9), (0, 3))):
        values = torch.empty((2, *shape), device="meta")
        work = triton_launch.begin(values, 3, 1.5, 0.01, 0)
        for launches, count in zip(
            (
                triton_launch.error_launches(work, values, values),
                triton_launch.gradient_launches(work, values, values, values),
            ),
            maps_held,
            strict=True,
        ):
            seen = {
                (value.storage_offset(), value.shape)
                for launch in launches
                for value in launch.arguments.values()
                if isinstance(value, Tensor) and value.dim() == 1 and value is not work.window
            }
            assert len(seen) == count, shape


@pytest.mark.parametrize("dtype", VALUES, ids=str)
def test_equal_values(dtype: torch.dtype) -> None:
    """Far from the border the variance is exactly 0, and so is the derivative of its root."""
    x = torch.full((1, 2, 2, 7, 7), 0.3, dtype=dtype)
    no_target, target = torch.zeros_like(x).bool(), torch.full_like(x, 0.9).half()
    # With a small c, two maps of equal values are normalized to nearly the same: their errors are
    # what is left of a difference, and its relative accuracy says nothing about the kernels.
    for values, t, c in ((0.1 * x, no_target, 0.01), (0.7 * x, target, 0.3)):
        found, grad = run(case := Case(values, t, torch.ones_like(x), 5, constant=c))
        check((found, grad), case)
        assert bool(grad.isfinite().all())
    flat = Case(x[:, :, 0], torch.ones_like(x[:, :, 0]), torch.ones_like(x[:, :, 0]))
    found, grad = run(flat)
    assert bool((found[..., 2:-2, 2:-2] == 0).all())
    assert bool((grad[..., 3:-3, 3:-3] == 0).all())


def test_equal_maps() -> None:
    t = maps((1, 2, 7, 9), random.Random(0))[1]
    for result in run(Case(t.float(), t, torch.ones(t.shape))):
        assert bool((result == 0).all())


@pytest.mark.parametrize("shape", [(1, 2, 40), (1, 1, 12, 24), (1, 1, 4, 8, 12)], ids=str)
def test_small_deviations(shape: Sequence[int]) -> None:
    compare(run, nearly_equal(shape))


@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize("shape", [(2, 2, 20), (2, 2, 6, 9), (1, 2, 4, 5, 6)], ids=str)
def test_values_that_are_not_finite(dtype: torch.dtype, shape: Sequence[int]) -> None:
    compare(run, wild(Case(*maps(shape, random.Random(0), dtype, torch.float16))))


@pytest.mark.parametrize("shape", [(1, 2, 5), (1, 2, 2, 3), (1, 2, 1, 2, 3)], ids=str)
def test_offsets_past_2_to_the_31(shape: Sequence[int], tmp_path: Path) -> None:
    case = Case(*maps(shape, random.Random(0), torch.float32, torch.uint8))
    compare(run, far_apart(case, tmp_path))


@pytest.mark.parametrize("shape", [(0, 2, 4), (2, 0, 3, 3), (1, 2, 3, 0, 5)], ids=str)
def test_empty(shape: Sequence[int]) -> None:
    x = torch.empty(shape)
    for result in run(Case(x, x, x)):
        assert result.shape == shape


def test_windows_and_shapes_that_do_not_go() -> None:
    x = torch.zeros(1, 1, 5)
    for window_size in (0, 2, 67):
        with pytest.raises(ValueError, match="window_size must be odd"):
            run(Case(x, x, x, window_size))
    with pytest.raises(ValueError, match="needs tensors of the shape"):
        run(Case(x, x[..., :4], x))


def test_other_dtypes_are_left_to_the_reference() -> None:
    x, t, _ = maps((1, 2, 4, 5), random.Random(0))
    for values, target in ((x.bfloat16(), t), (x, t.to(torch.uint16))):
        found = [
            structural_error(values, target, window_size=3, sigma=1.5, constant=0.1, impl=impl)
            for impl in ("triton", "reference")
        ]
        assert torch.equal(*found)


def test_repeated_bits_and_inputs_as_they_were() -> None:
    case = Case(*maps((1, 2, 9, 7), random.Random(0)), 5)
    before = [case.values.clone(), case.target.clone(), case.grad.clone()]
    for one, other in zip(run(case), run(case), strict=True):
        assert torch.equal(one, other)
    for tensor, was in zip((case.values, case.target, case.grad), before, strict=True):
        assert torch.equal(tensor, was)


def test_the_public_way() -> None:
    x, t, grad = maps((1, 3, 4, 5), random.Random(0))
    case = Case(x, t, grad, first=1)
    x = x.clone().requires_grad_()
    found = structural_error(x, t, window_size=3, sigma=1.5, constant=0.01, first=1, impl="triton")
    found.backward(grad)
    assert x.grad is not None
    check((found.detach(), x.grad), case)
    assert "structural_error" in str(found.grad_fn)
    assert kernels.choose("triton", x.device) == "triton"
    assert kernels.choose("auto", x.device) != "triton"  # never by itself
    (said,) = (
        b
        for b in backends()
        if (b.primitive, b.impl, b.device) == ("structural_error", "triton", "cpu")
    )
    assert said.available


def test_opcheck() -> None:
    x, t, grad = maps((1, 2, 2, 5), random.Random(0))
    options = (3, 1.5, 0.01, 1, "triton")
    operator = torch.ops.segloss_fast.structural_error.default
    torch.library.opcheck(operator, (x.clone().requires_grad_(), t, *options))
    backward = torch.ops.segloss_fast.structural_error_backward.default
    torch.library.opcheck(backward, (grad, lay_out(x, "channels_last"), t, *options))
