"""Compiles the Triton kernels of nearest_component for GPUs that need not be there."""

from __future__ import annotations

import pytest
import torch

from segloss_fast.ops.distance_transform import triton_launch
from tests.ops.triton.compiler import compile_launch

pytestmark = pytest.mark.compiled


@pytest.mark.parametrize(
    ("dtype", "distance", "capability"),
    [(torch.uint8, True, 80), (torch.int32, False, 90), (torch.int64, True, 90)],
    ids=str,
)
def test_nothing_spills(dtype: torch.dtype, distance: bool, capability: int) -> None:
    with torch.device("meta"):
        labels = torch.empty((1, 2, 64, 64, 64), dtype=dtype)
        out = torch.empty(labels.shape, dtype=torch.int32)
        distances = torch.empty(labels.shape if distance else 0)
        weights = [9.0, 1.0, 1.0]
        launches = list(triton_launch.nearest_launches(labels, weights, 1.0, out, distances))
    assert len(launches) == 3
    for launch in launches:
        found = compile_launch(launch, capability)
        assert found.stack == 0
        assert found.registers <= 64
