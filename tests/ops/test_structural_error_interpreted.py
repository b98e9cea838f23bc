"""How structural_error's Triton kernels are launched: weights, groups of planes, bad calls."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from segloss_fast.ops.structural_error import reference, structural_error, triton_launch
from tests.machines import Machine, machines_of
from tests.ops.structural_error_cases import Case, check, maps, run

pytestmark = [
    # Of the interpreter's arithmetic with NaN and infinity.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.usefixtures("new_tensors_are_nan"),
]


@pytest.fixture
def machine() -> Machine:
    (found,) = machines_of("structural_error")
    return found


@pytest.mark.parametrize("sigma", [0.02, 0.7, 1.5, 1e6])
def test_weights_are_those_of_the_reference(sigma: float) -> None:
    for window_size in (1, 3, 65):
        work = triton_launch.begin(torch.empty(1, 1, 1).double(), window_size, sigma, 1.0, 0)
        work.weights()()
        true = torch.tensor(reference._gaussian(window_size, sigma), dtype=torch.float64)
        assert bool(((work.window - true).abs() <= 4 * torch.finfo(true.dtype).eps * true).all())


def test_groups_of_planes_do_not_matter(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for shape in ((2, 3, 5), (2, 2, 3, 5), (1, 4, 2, 3, 3)):
        case = Case(*maps(shape, random.Random(0)), first=1)
        together = run(machine, case)
        check(together, case)
        for planes in (3, 1):
            held = planes * 32 * torch.Size(shape[2:]).numel()
            monkeypatch.setattr(triton_launch, "GROUP_BYTES", held if planes > 1 else 0)
            for whole, cut in zip(together, run(machine, case), strict=True):
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


def test_windows_and_shapes_that_do_not_go(machine: Machine) -> None:
    x = torch.zeros(1, 1, 5)
    for window_size in (0, 2, 67):
        with pytest.raises(ValueError, match="window_size must be odd"):
            run(machine, Case(x, x, x, window_size))
    with pytest.raises(ValueError, match="needs tensors of the shape"):
        run(machine, Case(x, x[..., :4], x))


def test_other_dtypes_are_left_to_the_reference() -> None:
    x, t, _ = maps((1, 2, 4, 5), random.Random(0))
    for values, target in ((x.bfloat16(), t), (x, t.to(torch.uint16))):
        found = [
            structural_error(values, target, window_size=3, sigma=1.5, constant=0.1, impl=impl)
            for impl in ("triton", "reference")
        ]
        assert torch.equal(*found)
