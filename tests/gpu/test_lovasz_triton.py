"""lovasz's Triton kernels on a CUDA device: against the reference in float64, and themselves."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import Tensor

from segloss_fast.ops.lovasz.bins import DEFAULT, number
from segloss_fast.ops.lovasz.options import ACTIVATIONS
from tests.gpu.device import DEVICE, require
from tests.helpers import relative_l2
from tests.machines import Machine
from tests.ops.lovasz_cases import count, options_of

MACHINE = Machine("lovasz", "cuda_triton", "cuda", "triton")


@pytest.fixture(autouse=True)
def needs_triton() -> None:
    """Skip where there is none."""
    require("triton", "lovasz")


def large(activation: str, classes: int, kind: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return 2^20 voxels and labels on the device: random, saturated, or all alike."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    shape = (1, classes, 64, 128, 128)
    space = (1, *shape[2:])
    x = torch.randn(shape, generator=generator, device=DEVICE)
    target = torch.randint(0, max(classes, 2), space, generator=generator, device=DEVICE)
    if kind == "saturated":
        shifted = target.roll(1, -1)[:, None]
        sure = shifted * 2.0 - 1 if classes == 1 else torch.zeros_like(x).scatter_(1, shifted, 2.0)
        x = x + 8 * sure
    if kind == "equal":
        x = torch.zeros_like(x)
    return x.to(dtype), target


@pytest.mark.parametrize("kind", ["random", "saturated", "equal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d], ids=str)
@pytest.mark.parametrize(
    ("activation", "classes"),
    [
        *(("softmax", classes) for classes in (2, 4, 14, 24, 140)),
        *(("sigmoid", classes) for classes in (1, 14)),
        *(("hinge", classes) for classes in (1, 4)),
    ],
)
def test_backward_finds_the_bins_of_forward(
    activation: str,
    classes: int,
    layout: torch.memory_format,
    dtype: torch.dtype,
    kind: str,
) -> None:
    """To the last one: a bin that nobody was counted in makes the gradient NaN."""
    x, target = large(activation, classes, kind, dtype)
    x = x.to(memory_format=layout)
    o = options_of(activation, cross_entropy=False)
    counts, rows, _ = count(MACHINE, x, target, o)
    again, _, _ = count(MACHINE, x, target, o)
    assert torch.equal(counts, again)
    assert (counts[0].sum((-1, -2)) == target.numel()).all()
    table = torch.where(counts[0] > 0, 1.0, torch.nan)
    launch = import_module("segloss_fast.ops.lovasz.triton_launch")
    incoming = (table, table.new_ones(table.shape[:2], dtype=torch.float64), None)
    grad = launch.backward(*incoming, x, target, ACTIVATIONS.index(activation), *DEFAULT, None)
    assert grad.isfinite().all()
    assert not rows.any()


def test_offsets_past_2_to_the_31(free_memory: int) -> None:
    """The last voxels of 2^31 + 2^20 count, and have the gradient of a smaller volume."""
    voxels = 2**31 + 2**20
    if free_memory < 2 * 2 * voxels + voxels + 2**30:
        pytest.skip("not enough memory")
    launch = import_module("segloss_fast.ops.lovasz.triton_launch")
    x = torch.zeros(1, 1, voxels, dtype=torch.float16, device=DEVICE)
    target = torch.zeros(1, voxels, dtype=torch.uint8, device=DEVICE)
    x[..., -1000:] = 3.0
    target[..., -500:] = 1
    place = ACTIVATIONS.index("sigmoid")
    counts, _, invalid = launch.count(x, target, place, *DEFAULT, False, None, False)
    assert counts[0].sum((-1, -2)).item() == voxels
    assert counts[0, 0, 0, 1].sum().item() == 500
    assert invalid.tolist() == [0, 0]
    size = number(*DEFAULT)
    assert (counts[0, 0, 0, 0] > 0).sum().item() == 2
    table = torch.zeros(1, 1, 2, size, device=DEVICE)
    table[:, :, 1] = 1.0
    one = torch.ones(1, 1, dtype=torch.float64, device=DEVICE)
    grad = launch.backward(table, one, None, x, target, place, *DEFAULT, None)
    p = torch.tensor(3.0).half().double().sigmoid()
    expected = torch.full((500,), float(-p * (1 - p)), dtype=torch.float64)
    assert relative_l2(grad[0, 0, -500:].cpu(), expected) < 1e-3
    assert not grad[0, 0, :-500].any()
