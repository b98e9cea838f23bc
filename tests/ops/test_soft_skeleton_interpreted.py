"""How soft_skeleton's Triton kernels are launched: groups of planes, cuts, scratch memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segloss_fast.ops._triton.launch import Launch
from segloss_fast.ops.soft_skeleton import triton_backward, triton_kernels, triton_launch
from tests.ops.soft_skeleton_cases import check, values, weights

pytestmark = [
    # Of the interpreter's arithmetic where there are no voxels.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.usefixtures("new_tensors_are_nan"),
]


def run(x: Tensor, iterations: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """Return the skeletons, and the gradient of a weighted sum, by the kernels alone."""
    found = triton_launch.forward(x, iterations, first)
    return found, triton_launch.backward(weights(x), x, iterations, first)


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


def test_what_it_refuses() -> None:
    x = torch.ones(1, 1, 4)
    for values_, grad in ((x.half(), x.half()), (x != 0, x)):
        with pytest.raises(TypeError, match="soft_skeleton"):
            triton_launch.backward(grad, values_, 1, 0)
    with pytest.raises(ValueError, match="grad"):
        triton_launch.backward(x[..., 1:], x, 1, 0)
