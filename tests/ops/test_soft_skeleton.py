"""What soft_skeleton promises on every machine: MONAI's skeletons and gradient, also at ties."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from segloss_fast.ops.soft_skeleton import soft_skeleton
from tests.machines import Machine, on, sized
from tests.ops.distance_transform_cases import LAYOUTS, lay_out
from tests.ops.soft_skeleton_cases import (
    FAR,
    KINDS,
    check,
    exact,
    far_apart,
    run,
    solve,
    values,
    weights,
)

kernels = on("native", "interpreted", "cuda")
SIZES = [(1,), (37,), (1, 1), (8, 21), (40, 1), (1, 6, 5), (5, 1, 9), (9, 8, 17), (23, 4, 2)]
# Also of more than one block.
INTERPRETED = [
    *((1,), (37,), (129,), (1, 1), (6, 1), (1, 9), (4, 21), (2, 130)),
    *((1, 1, 1), (1, 5, 6), (4, 1, 3), (2, 5, 1), (3, 6, 23)),
]
ON_DEVICE = [(1,), (3001,), (1, 1), (127, 130), (40, 1), (1, 6, 5), (33, 1, 9), (19, 28, 37)]


@on("reference", "native")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [size for size in SIZES if len(size) > 1], ids=str)
def test_equals_monai_also_where_voxels_are_equal(
    machine: Machine, kind: str, size: tuple[int, ...]
) -> None:
    from monai.losses.cldice import soft_skel  # which a machine with a device may lack

    for iterations in (0, 1, 3, 7):
        x = values(kind, (2, 2, *size))
        found, grad = solve(x, iterations, machine.impl)
        x.requires_grad_()
        true = soft_skel(x, iterations)
        true.backward(weights(x))
        assert x.grad is not None
        torch.testing.assert_close(found, true.detach(), rtol=0, atol=1e-14)
        torch.testing.assert_close(grad, x.grad, rtol=1e-12, atol=1e-12)


@kernels
@sized("size", SIZES, interpreted=INTERPRETED, cuda=ON_DEVICE)
@sized("kind", KINDS, interpreted=["quarters"])
def test_equals_the_reference(machine: Machine, size: tuple[int, ...], kind: str) -> None:
    shape = machine.pick((2, 3, *size), interpreted=(1, 1, *size))
    steps = machine.pick(((0, 0), (2, 1), (11, 0)), interpreted=((1, 0),))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        if machine.family == "interpreted" and dtype == torch.float64:
            continue
        for iterations, first in steps:
            x = values(kind, shape, dtype)
            found, grad = run(machine, x, iterations, first)
            check((found, grad), x, iterations, first)
            assert (found[:, :first] == 0).all()
            assert (grad[:, :first] == 0).all()
            if machine.family == "native":
                _, true_grad = solve(x, iterations, "reference", first)
                torch.testing.assert_close(grad, true_grad, rtol=tolerance, atol=tolerance)


@kernels
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_maps(machine: Machine, kind: str) -> None:
    x = values(kind, (1, 1, 3, 5, 6), torch.float64 if kind == "random" else torch.float32)
    check(run(machine, x, 2), x, 2)


@kernels
@sized("size", [(40,), (5, 9), (4, 4, 5)], cuda=[(40,), (90, 80), (40, 50, 60)])
@pytest.mark.parametrize("kind", ["quarters", "binary", "constant"])
def test_ties_are_broken_alike(machine: Machine, kind: str, size: Sequence[int]) -> None:
    """Sums of few binary digits round nothing, so equal means that the same voxels take part."""
    iterations = machine.pick(2, cuda=3)
    x, grad = exact(values(kind, (1, machine.pick(1, cuda=2), *size)), iterations)
    _, true = solve(x, iterations, "reference", grad=grad)
    assert torch.equal(run(machine, x, iterations, grad=grad)[1], true)


@kernels
@pytest.mark.parametrize("iterations", [0, 1, 3, 5])
def test_iterations(machine: Machine, iterations: int) -> None:
    x = values("random", (1, 1, 4, 7), torch.float32)
    check(run(machine, x, iterations), x, iterations)


@kernels
def test_no_more_levels_than_it_takes_to_reach_all_voxels(machine: Machine) -> None:
    x = values("quarters", (1, 1, 2, 3), torch.float32)
    found = run(machine, x, 1000)
    assert torch.equal(found[0], run(machine, x, 5)[0])
    check(found, x, 12)


@sized("size", SIZES, interpreted=[(70,), (5, 8), (3, 4, 6)])
def test_masks_have_masks_for_skeletons(machine: Machine, size: tuple[int, ...]) -> None:
    mask = values("binary", (machine.pick(2, interpreted=1), 3, *size)) != 0
    for iterations in machine.pick((0, 2, 9), interpreted=(2,)):
        found = soft_skeleton(machine.place(mask), iterations, first=1, impl=machine.impl).cpu()
        assert found.dtype == torch.bool
        assert (found.view(torch.uint8) <= 1).all()
        true = soft_skeleton(mask.double(), iterations, first=1, impl="reference")
        assert torch.equal(found.double(), true)


def test_a_known_skeleton(machine: Machine) -> None:
    bar = torch.zeros(1, 1, 7, 11, dtype=torch.bool)
    bar[..., 2:5, 1:10] = True
    lines = soft_skeleton(machine.place(bar), 3, impl=machine.impl)[0, 0].int().tolist()
    assert lines[3] == [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    assert sum(map(sum, lines)) == 7


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(machine: Machine, layout: str) -> None:
    """Of values, of masks, and of the gradient that comes in."""
    iterations = machine.pick(3, interpreted=0, cuda=2)
    shapes: list[Sequence[int]] = [(2, 3, 6, 5, 7)]
    small: list[Sequence[int]] = [(2, 2, 2, 5), (1, 1, 2, 3, 4)]
    large: list[Sequence[int]] = [(2, 3, 9, 17, 20)]
    for shape in machine.pick(shapes, interpreted=small, cuda=large):
        x = lay_out(values("quarters", shape, torch.float32), layout)
        grad = lay_out(weights(x), "contiguous" if layout == "expanded" else layout)
        found = run(machine, x, iterations, grad=grad)
        check(found, x, iterations)
        mask = x > 0.4
        skeletons = soft_skeleton(machine.place(mask), iterations, impl=machine.impl).cpu()
        assert torch.equal(skeletons, soft_skeleton(mask, iterations, impl="reference"))
        if machine.family in ("reference", "native"):
            same = run(machine, x.contiguous(), iterations, grad=grad.contiguous())
            assert all(map(torch.equal, found, same))


@sized("size", [(9,), (9, 9), (3, 4, 5)], interpreted=[(9,), (5, 6), (3, 4, 5)])
def test_a_nan_stays_one(machine: Machine, size: Sequence[int]) -> None:
    """Triton's kernels spread it as PyTorch does, the native ones not as far."""
    x = values("random", (1, 1, *size), torch.float32)
    middle = x.numel() // 2
    x.flatten()[middle] = torch.nan
    for iterations in machine.pick((1, 2), interpreted=(1,)):
        found, _ = run(machine, x, iterations)  # backward reads nothing that is not there
        assert found.flatten()[middle].isnan()
        if machine.family == "interpreted":
            true = soft_skeleton(x, iterations, impl="reference")
            torch.testing.assert_close(found, true, rtol=0, atol=0, equal_nan=True)


@on("reference", "native", "interpreted")  # a device has to hold what lies between
def test_offsets_past_2_to_the_31(machine: Machine) -> None:
    """Of strides; the memory between is never touched."""
    small = values("quarters", (1, 2, 1, 3), torch.float32)
    for strides in ((9, FAR, 3, 1), (9, 3, 1, FAR)):
        x, grad = far_apart(small, strides), far_apart(weights(small), strides)
        check(run(machine, x, 0, grad=grad), small, 0)


@pytest.mark.parametrize("shape", [(0, 2, 4), (2, 0, 3, 3), (1, 2, 3, 0, 5)], ids=str)
def test_empty(machine: Machine, shape: tuple[int, ...]) -> None:
    x = torch.empty(shape, device=machine.device, requires_grad=True)
    found = soft_skeleton(x, 2, impl=machine.impl)
    assert found.shape == shape
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == shape
    assert soft_skeleton(x.detach() != 0, 2, impl=machine.impl).shape == shape


@on("native", sets=True)
def test_instruction_sets(machine: Machine) -> None:
    for kind in ("random", "quarters"):
        x = values(kind, (2, 2, 9, 10, 37), torch.float32)
        for found, true in zip(run(machine, x, 3), solve(x, 3, "reference"), strict=True):
            torch.testing.assert_close(found, true, rtol=1e-5, atol=1e-5)
        mask = x > 0.4
        assert torch.equal(
            soft_skeleton(mask, 3, impl="native"), soft_skeleton(mask, 3, impl="reference")
        )
