"""How confusion_sums' Triton kernels are launched: what they write, and how many programs."""

from __future__ import annotations

import pytest
import torch

from segloss_fast.ops._triton.views import Tensors
from segloss_fast.ops.confusion_sums import triton_launch, triton_plan
from tests.ops.confusion_sums_cases import case_of

pytestmark = pytest.mark.usefixtures("new_tensors_are_nan")


@pytest.mark.parametrize("classes", [3, 9])
@pytest.mark.parametrize("kind", ["labels", "dense"])
def test_nothing_else_is_written(classes: int, kind: str) -> None:
    case = case_of(classes, (3, 7), kind)
    grad_sums = torch.randn(2, classes, classes + 1, dtype=torch.float64)
    arguments = (case.x, case.target, case.weight, 0, None)
    expected = triton_launch.backward(grad_sums, *arguments)
    around = torch.full((3, *case.x.shape), torch.nan)
    table = grad_sums[..., :-1].float()
    triton_launch.backward_launch(around[1], table, *arguments)()
    assert torch.equal(around[1], expected)
    assert around[::2].isnan().all()


@pytest.mark.parametrize("classes", [3, 9])
def test_only_what_was_written_is_read(
    monkeypatch: pytest.MonkeyPatch, what_is_read_was_written: list[int], classes: int
) -> None:
    """One program adds a tile at a time to what it wrote before, which for the first is nothing."""
    for name in ("BLOCK_TILES", "MIN_PROGRAMS", "MAX_PROGRAMS"):
        monkeypatch.setattr(triton_plan, name, 1)
    case = case_of(classes, (40, 60), "labels")
    sums, _ = triton_launch.forward(case.x, case.target, None, 0, None)
    assert sums[..., -1].sum() == case.target.numel()
    assert any(what_is_read_was_written)


def test_programs_of_any_volume() -> None:
    """By the plans of huge tensors, of which there is no memory."""
    for classes in (2, 8, 9, 32, 105, 300):
        for batch, size in ((1, (1,)), (5000, (64, 64)), (1, (2**11, 2**11, 2**11))):
            x = torch.empty(1, device="meta").expand(batch, classes, *size)
            tensors = Tensors(x, x[:, 0].to(torch.uint8), None)
            plan = triton_plan.forward_plan(tensors)
            assert plan.chunks * plan.block_v < tensors.voxels + plan.block_v
            assert batch * plan.chunks * (2 * plan.class_blocks) ** 2 < 2**31
            doubles = batch * plan.chunks * classes * (classes + 1)
            assert doubles <= max(2**20, max(batch, 132) * classes * (classes + 1))
