"""How region_sums' Triton kernels are launched: what they read and write, and nothing else."""

from __future__ import annotations

import pytest
import torch

from segloss_fast.ops._triton import tiling
from segloss_fast.ops.region_sums import triton_launch
from tests.ops.region_sums_cases import LOSS_TERMS, case_of, factors


def test_incoming_gradients_of_any_strides() -> None:
    case = case_of((2, 3, 5, 7), terms=LOSS_TERMS).to(torch.float32)
    tail = (case.x, case.target, None, case.options)
    for given in (torch.ones((), dtype=torch.float64), torch.randn(3, 2, 5).double().mT.mT):
        full = given.expand(5, 2, 3) if given.dim() == 0 else given.permute(2, 1, 0)
        strided = triton_launch.backward(full, *tail)
        assert torch.equal(strided, triton_launch.backward(full.contiguous(), *tail))


@pytest.mark.parametrize("classes", [3, 40, 150])
def test_every_value_is_written_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, what_is_read_was_written: list[int], classes: int
) -> None:
    """Uninitialised memory is NaN, and so is what lies around the gradient; two runs agree."""
    monkeypatch.setattr(tiling, "BLOCK_TILES", 2)
    monkeypatch.setattr(tiling, "MAX_PROGRAMS", 2)
    monkeypatch.setattr(tiling, "MIN_PROGRAMS", 2)
    size = (7, 41 if classes == 3 else 5)
    case = case_of((1, classes, *size), "ignore", LOSS_TERMS).to(torch.float32)
    tail = (case.x, case.target, case.weight, case.options)
    rows, _ = triton_launch.forward(*tail)
    grad = triton_launch.backward(factors(rows), *tail)
    assert rows.isfinite().all()
    assert grad.isfinite().all()
    assert torch.equal(triton_launch.forward(*tail)[0], rows)
    around = torch.full((3, *case.x.shape), torch.nan)
    triton_launch.backward_launch(around[1], factors(rows), *tail)()
    assert torch.equal(around[1], grad)
    assert around[::2].isnan().all()
    assert any(what_is_read_was_written)
