"""How distance_transform's kernels run on a CUDA device; most of what they compute: tests/ops."""

from __future__ import annotations

import importlib.util
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from torch import Tensor

from benchmarks.measure.cuda import capture
from segloss_fast import _native  # registers the operator
from tests.gpu.device import DEVICE, no_synchronisation, there
from tests.ops.distance_transform_cases import (
    SIDES,
    Case,
    ball,
    check,
    seeds,
)

by_kernel = pytest.mark.parametrize("impl", ["native", "triton"])
by_side = pytest.mark.parametrize("side", SIDES)
SCRATCH = {"native": 2, "triton": 4}  # bytes per voxel, besides the result


def run(impl: str, case: Case) -> Tensor:
    """Return the distances of a mask that is on the device."""
    if impl == "triton":
        if importlib.util.find_spec("triton") is None:
            pytest.skip("Triton is not installed")
        launch = import_module("segloss_fast.ops.distance_transform.triton_launch")
        result: Tensor = launch.forward(case.mask, case.spacing, case.side, case.squared)
        return result
    if _native.CUDA_BUILD is None:
        pytest.skip("the CUDA library was not built")
    operator = torch.ops.segloss_fast._distance_transform
    result = operator(case.mask, list(case.spacing), SIDES.index(case.side), case.squared)
    return result


def compare(impl: str, case: Case) -> None:
    """Run on the device, from memory laid out as on the CPU, and compare there."""
    result = run(impl, replace(case, mask=there(case.mask)))
    assert result.device.type == DEVICE
    check(result.cpu(), case)


def blobs(*size: int, batch: int = 1) -> Tensor:
    """Return smooth random regions, about a third of the volume."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    noise = torch.randn((batch, 1, *size), generator=generator, device=DEVICE)
    pool = getattr(torch.nn.functional, f"avg_pool{len(size)}d")
    for _ in range(3):
        noise = pool(noise, 7, stride=1, padding=3)
    return noise > noise.std() * 0.4


@by_kernel
@by_side
@pytest.mark.parametrize("squared", [False, True])
def test_volumes(impl: str, side: str, squared: bool) -> None:
    draw = random.Random(0)
    shape = (96, 130, 121)
    organ = ball(shape, 0.15, draw)[None, None]
    noise = torch.rand((1, 1, *shape), generator=torch.Generator().manual_seed(0)) < 0.5
    masks = torch.cat([organ, ~organ, noise, blobs(*shape).cpu(), seeds(shape, 20) != 0])
    for spacing in ([1.0, 1.0, 1.0], [3.0, 0.8, 0.8]):
        compare(impl, Case(masks, spacing, side, squared))


@by_kernel
def test_many_masks_at_once(impl: str) -> None:
    masks = torch.rand((2, 105, 8, 9, 33), generator=torch.Generator().manual_seed(0)) < 0.9
    compare(impl, Case(masks, [1.0, 1.0, 1.0], "both"))


@by_kernel
@by_side
def test_the_host_never_waits(impl: str, side: str) -> None:
    case = Case(blobs(40, 41, 42), [1.0, 1.0, 1.0], side)
    run(impl, case)  # compiles
    with no_synchronisation():
        run(impl, case)


@by_kernel
def test_a_cuda_graph_replays_it(impl: str) -> None:
    case = Case(blobs(40, 41, 42), [1.0, 1.0, 2.0], "signed")
    graph, result = capture(lambda: run(impl, case))
    for shift in (1, 5):
        case.mask.copy_(case.mask.roll(shift, -1))
        graph.replay()
        assert torch.equal(result, run(impl, case))


@by_kernel
def test_side_streams_and_repeated_bits(impl: str) -> None:
    case = Case(blobs(100, 90, 80, batch=2), [0.7, 1.1, 3.0], "both")
    result = run(impl, case)
    found = []
    for _ in range(4):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            late = case.mask.logical_not().logical_not()  # work that must come first
            found.append(run(impl, replace(case, mask=late)))
    torch.cuda.synchronize()
    for other in found:
        assert torch.equal(other, result)


@by_kernel
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
def test_scratch_memory(impl: str, last: bool) -> None:
    mask = blobs(128, 128, 128, batch=2)
    if last:
        mask = torch.stack([mask, ~mask], -1)[..., 0]  # every other element: a copy would show
    case = Case(mask, [1.0, 1.0, 1.0], "both")
    run(impl, case)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run(impl, case)
    above = torch.cuda.max_memory_allocated() - before - 4 * result.numel()
    assert above <= SCRATCH[impl] * result.numel() + 2**20


@by_kernel
@pytest.mark.parametrize("shape", [(2049, 1024, 1025), (3, 1024, 700_001)], ids=str)
def test_more_than_2_to_the_31_voxels(impl: str, shape: Sequence[int], free_memory: int) -> None:
    """Only a cube in the last corner is inside, so a wrapped offset shows."""
    voxels = math.prod(shape)
    if free_memory < 12 * voxels:
        pytest.skip("not enough memory on the device")
    mask = torch.zeros((1, 1, *shape), dtype=torch.bool, device=DEVICE)
    side = min(5, shape[0] - 1)
    end = slice(-side - 1, None)
    corner = (slice(None), slice(None), end, end, end)
    mask[corner][..., 1:, 1:, 1:] = True
    case = Case(mask, [1.0, 1.0, 1.0], "inside")
    result = run(impl, case)
    expected = torch.arange(1, side + 1, device=DEVICE).float()
    nearest = torch.minimum(expected[:, None, None], expected[:, None]).minimum(expected)
    assert torch.equal(result[corner][0, 0, 1:, 1:, 1:], nearest)
    result[corner] = 0
    assert result.count_nonzero().item() == 0
