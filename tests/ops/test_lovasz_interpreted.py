"""How lovasz's Triton kernels are launched: what they read and write, and how many programs."""

from __future__ import annotations

import pytest
import torch

from segloss_fast._check import FLOATING
from segloss_fast.ops._triton.views import Tensors
from segloss_fast.ops.lovasz import bins, triton_launch, triton_plan
from tests.machines import Machine
from tests.ops.lovasz_cases import histogram, options_of
from tests.ops.lovasz_samples import sample

MACHINE = Machine("lovasz", *("interpreted",) * 2, "triton")


@pytest.mark.parametrize("classes", [3, 40, 150])
def test_every_value_is_written_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, what_is_read_was_written: list[int], classes: int
) -> None:
    """Uninitialised memory is not zero, and lies around the gradient; two runs agree."""
    monkeypatch.setattr(triton_plan, "MAX_PROGRAMS", 2)
    o = options_of(bits=4, ignore_index=255)
    size = (7, 41 if classes == 3 else 5)
    x, target, _ = sample((1, classes, *size), "ignore", "softmax", torch.float32)
    first, again = (histogram(MACHINE, x, target, o).tensors.values() for _ in range(2))
    assert all(map(torch.equal, first, again))
    assert not any(tensor.isnan().any() for tensor in first)
    around = torch.full((3, *x.shape), torch.nan)
    table = torch.ones(1, classes, 2, bins.number(o.octaves, o.bits))
    what = (0, o.octaves, o.bits)
    incoming = (table, table.new_ones((1, classes), dtype=torch.float64), None)
    arguments = (incoming, x, target, what, 255)
    triton_launch.backward_launch(around[1], *arguments)()
    assert around[1].isfinite().all()
    assert around[::2].isnan().all()
    assert any(what_is_read_was_written)


def test_incoming_gradients_of_any_strides() -> None:
    x, target, _ = sample((2, 3, 5, 7), "labels", dtype=torch.float32)
    table = torch.randn(2, 2, 3, 6144).transpose(1, 2)
    grad_loss, grad_ce = torch.randn(2, 3, 2, dtype=torch.float64).mT
    tail = (x, target, 0, 12, 7, None)
    strided = triton_launch.backward(table, grad_loss, grad_ce, *tail)
    dense = triton_launch.backward(
        table.contiguous(), grad_loss.contiguous(), grad_ce.contiguous(), *tail
    )
    assert torch.equal(strided, dense)


@pytest.mark.parametrize("dtype", [d for d in FLOATING if d != torch.float64], ids=str)
@pytest.mark.parametrize("activation", [True, False])
def test_counters_and_registers_are_large_enough(dtype: torch.dtype, activation: bool) -> None:
    """Of any number of voxels: by the plans of huge tensors, of which there is no memory."""
    sizes = ((1, 1, 1), (64, 64, 64), (512, 512, 512), (1, 2**20, 2**14), (2**12, 2**12, 2**12))
    for classes in (1, 2, 4, 16, 17, 100, 300):
        for batch in (1, 7, 5000):
            for size in sizes:
                x = torch.empty(1, dtype=dtype, device="meta").expand(batch, classes, *size)
                if x.numel() > 2**42:
                    continue
                target = torch.empty(1, dtype=torch.uint8, device="meta").expand(batch, *size)
                tensors = Tensors(x, target, None)
                plan = triton_plan.count_plan(tensors, activation)
                counters = classes * 2 * 6144
                replicas = triton_plan.replicas(tensors, plan, counters)
                programs = batch * plan.chunks
                tiles = -(-tensors.voxels // plan.block_v)
                voxels = -(-tiles // plan.chunks) * plan.block_v
                # The programs of a replica are every so many-th: at most this many voxels.
                assert -(-programs // replicas) * voxels < 2**24
                assert triton_plan.BLOCK_TILES * plan.fold < 256
                assert plan.chunks <= tiles
                assert (programs * plan.class_blocks) < 2**31
