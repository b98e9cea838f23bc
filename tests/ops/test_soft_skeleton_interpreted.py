"""Tests of soft_skeleton's Triton kernels under Triton's interpreter."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from segloss_fast import backends
from segloss_fast.ops._triton.launch import Launch
from segloss_fast.ops.soft_skeleton import (
    soft_skeleton,
    triton_backward,
    triton_kernels,
    triton_launch,
)
from segloss_fast.ops.soft_skeleton.op import kernels
from tests.ops.distance_transform_cases import LAYOUTS, lay_out
from tests.ops.region_masks_cases import _unwritten as unwritten
from tests.ops.soft_skeleton_cases import KINDS, check, exact, solve, values, weights

pytestmark = [
    # Of the interpreter's arithmetic where there are no voxels.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.usefixtures("new_tensors_are_nan"),
]


def run(x: Tensor, iterations: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """Return the skeletons, and the gradient of a weighted sum, by the kernels alone."""
    found = triton_launch.forward(x, iterations, first)
    return found, triton_launch.backward(weights(x), x, iterations, first)


SIZES = [
    *((1,), (37,), (129,), (1, 1), (6, 1), (1, 9), (4, 21), (2, 130)),
    *((1, 1, 1), (1, 5, 6), (4, 1, 3), (2, 5, 1), (3, 6, 23)),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes(size: Sequence[int]) -> None:
    """Also of more than one block."""
    x = values("quarters", (1, 1, *size), torch.float32)
    check(run(x, 1), x, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_maps(kind: str) -> None:
    x = values(kind, (1, 1, 3, 5, 6), torch.float64 if kind == "random" else torch.float32)
    check(run(x, 2), x, 2)


@pytest.mark.parametrize("size", [(40,), (5, 9), (4, 4, 5)], ids=str)
@pytest.mark.parametrize("kind", ["quarters", "binary", "constant"])
def test_ties_are_broken_alike(kind: str, size: Sequence[int]) -> None:
    """Sums of few binary digits round nothing, so equal means that the same voxels take part."""
    x, grad = exact(values(kind, (1, 1, *size)), 2)
    _, true = solve(x, 2, "reference", grad=grad)
    assert torch.equal(triton_launch.backward(grad, x, 2, 0), true)


@pytest.mark.parametrize("iterations", [0, 1, 3, 5])
def test_iterations(iterations: int) -> None:
    x = values("random", (1, 1, 4, 7), torch.float32)
    check(run(x, iterations), x, iterations)


def test_no_more_levels_than_it_takes_to_reach_all_voxels() -> None:
    x = values("quarters", (1, 1, 2, 3), torch.float32)
    found = run(x, 1000)
    assert torch.equal(found[0], run(x, 5)[0])
    check(found, x, 12)


@pytest.mark.parametrize("size", [(70,), (5, 8), (3, 4, 6)], ids=str)
def test_masks_have_masks_for_skeletons(size: Sequence[int]) -> None:
    mask = values("binary", (1, 2, *size)) != 0
    found = triton_launch.forward(mask, 2, 1)
    assert found.dtype == torch.bool
    assert (found.view(torch.uint8) <= 1).all()
    assert torch.equal(found, soft_skeleton(mask, 2, first=1, impl="reference"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    """Of values, of masks, and of the gradient that comes in."""
    for shape in ((2, 2, 2, 5), (1, 1, 2, 3, 4)):
        x = lay_out(values("quarters", shape, torch.float32), layout)
        grad = lay_out(weights(x), "contiguous" if layout == "expanded" else layout)
        found = triton_launch.forward(x, 0, 0), triton_launch.backward(grad, x, 0, 0)
        check(found, x, 0)
        mask = x > 0.4
        skeletons = triton_launch.forward(mask, 0, 0)
        assert torch.equal(skeletons, soft_skeleton(mask, 0, impl="reference"))


@pytest.mark.parametrize("first", [0, 1, 3, 9])
def test_planes_in_groups(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few planes fit in the scratch memory, and whatever the first class."""
    x = values("quarters", (2, 3, 6), torch.float32)
    together = run(x, 1, first)
    if first < 3:
        check(together, x, 1, first)
    else:
        assert not any(result.any() for result in together)
    for room in (0, 2 * 18 * 6):  # a plane at a time; two in backward
        monkeypatch.setattr(triton_launch, "LEAST_SCRATCH", room)
        monkeypatch.setattr(triton_launch, "MOST_SCRATCH", room)
        for found, same in zip(run(x, 1, first), together, strict=True):
            assert torch.equal(found, same)


def test_groups_hold_every_plane_once() -> None:
    for size in ((50,), (40, 30), (16, 16, 16), (64, 64, 64)):
        x = torch.empty((3, 5, *size), device="meta")
        for first in (0, 2):
            found = triton_launch.groups(x, 3, first, 30)
            planes = [p for g in found for p in range(g.start, g.start + g.count)]
            assert planes == list(range(3 * (5 - first)))
            bound = max(30 * x[0, 0].numel(), min(8 * x.numel(), 32 << 20), 4 << 20)
            assert max(30 * g.count * x[0, 0].numel() for g in found) <= bound


@pytest.mark.parametrize(("block", "programs"), [(16, 1), (32, 10**6), (128, 8)])
def test_any_cut_gives_the_same_bits(
    block: int, programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = values("random", (1, 1, 5, 4, 7), torch.float32)
    whole = run(x, 1)
    monkeypatch.setattr(triton_launch, "BLOCK", block)
    monkeypatch.setattr(triton_launch, "PROGRAMS", programs)
    for found, same in zip(run(x, 1), whole, strict=True):
        assert torch.equal(found, same)


def around_and_to(launch: Launch) -> tuple[set[str], set[str]]:
    """Return what a launch's programs read of other programs' voxels, and what they write."""
    flags = launch.constants
    if launch.kernel is triton_kernels.erode:
        return {"x"}, {"copy", "after"} | ({"codes"} if flags["CODES"] else set())
    if launch.kernel is triton_kernels.advance:
        to = {"own", "codes"} if flags["CODES"] else {"out" if flags["LAST"] else "known"}
        return {"img"}, to | (set() if flags["LAST"] else {"after"})
    if launch.kernel is triton_backward.differentiate:
        return set(), {"maps"}
    read = {"codes"} | ({"opened"} if flags["OPENED"] else set())
    return read | ({"eroded"} if flags["ERODED"] else set()), {"own" if flags["OPENED"] else "out"}


@pytest.mark.parametrize("iterations", range(6))
def test_no_launch_writes_what_its_programs_read_around(iterations: int) -> None:
    """The interpreter runs one program after another; a device does not."""
    x, grad, out = (torch.empty(1, 1, 20, 20) for _ in range(3))
    group = triton_launch.groups(x, iterations, 0, 1)[0]
    maps = torch.empty(iterations + 4, group.room)
    codes = torch.empty(iterations + 2, group.room, dtype=torch.int16)
    for launch in (
        *triton_launch.skeletons(group, x, maps, out),
        *triton_launch.gradients(group, grad, x, maps, codes, out),
    ):
        read, written = around_and_to(launch)
        found = [launch.arguments[name].data_ptr() for name in (*read, *written)]
        assert len(set(found)) == len(read) + len(written), (launch.kernel, launch.constants)


def test_offsets_past_2_to_the_31() -> None:
    """Of strides; the memory between is never touched."""
    far = 2**31 + 5
    small = values("quarters", (1, 2, 1, 3), torch.float32)
    for strides in ((9, far, 3, 1), (9, 3, 1, far)):
        room = 1 + sum((n - 1) * s for n, s in zip(small.shape, strides, strict=True))
        x = unwritten(room, torch.float32).as_strided(small.shape, strides).copy_(small)
        grad = unwritten(room, torch.float32).as_strided(small.shape, strides)
        grad.copy_(weights(small))
        found = triton_launch.forward(x, 0, 0), triton_launch.backward(grad, x, 0, 0)
        check(found, small, 0)


@pytest.mark.parametrize("size", [(9,), (5, 6), (3, 4, 5)], ids=str)
def test_a_nan_spreads_as_in_torch(size: Sequence[int]) -> None:
    x = values("random", (1, 1, *size), torch.float32)
    x.flatten()[x.numel() // 2] = torch.nan
    found, true = triton_launch.forward(x, 1, 0), soft_skeleton(x, 1, impl="reference")
    torch.testing.assert_close(found, true, rtol=0, atol=0, equal_nan=True)
    triton_launch.backward(weights(x), x, 1, 0)  # reads nothing that is not there


@pytest.mark.parametrize("shape", [(0, 2, 4), (2, 0, 3, 3), (1, 2, 3, 0, 5)], ids=str)
def test_empty(shape: Sequence[int]) -> None:
    x = torch.empty(tuple(shape))
    assert all(result.shape == x.shape for result in run(x, 2))
    assert triton_launch.forward(x != 0, 2, 0).shape == x.shape


def test_what_it_refuses() -> None:
    x = torch.ones(1, 1, 4)
    for values_, grad in ((x.half(), x.half()), (x != 0, x)):
        with pytest.raises(TypeError, match="soft_skeleton"):
            triton_launch.backward(grad, values_, 1, 0)
    with pytest.raises(ValueError, match="grad"):
        triton_launch.backward(x[..., 1:], x, 1, 0)


def test_the_public_way() -> None:
    x = values("random", (1, 2, 2, 4), torch.float32)
    once, twice = solve(x, 1, "triton", 1), solve(x, 1, "triton", 1)
    check(once, x, 1, 1)
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    (grad,) = torch.autograd.grad(
        soft_skeleton(x.requires_grad_(), 1, impl="triton").square().sum(), x, create_graph=True
    )
    with pytest.raises(RuntimeError, match="soft_skeleton has no second derivative"):
        grad.sum().backward()
    assert kernels.choose("triton", x.device) == "triton"
    assert kernels.choose("auto", x.device) != "triton"  # never by itself
    (said,) = (
        b
        for b in backends()
        if (b.primitive, b.impl, b.device) == ("soft_skeleton", "triton", "cpu")
    )
    assert said.available


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_opcheck(layout: torch.memory_format) -> None:
    x = values("random", (1, 2, 1, 3), torch.float32).to(memory_format=layout)
    operator = torch.ops.segloss_fast.soft_skeleton.default
    torch.library.opcheck(operator, (x.clone().requires_grad_(), 0, 1, "triton"))
    torch.library.opcheck(operator, (x > 0.5, 0, 0, "triton"))
    backward = torch.ops.segloss_fast.soft_skeleton_backward.default
    torch.library.opcheck(backward, (torch.ones_like(x), x, 0, 1, "triton"))
