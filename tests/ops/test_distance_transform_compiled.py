"""Compiles the Triton kernels of distance_transform for GPUs that need not be there."""

from __future__ import annotations

import pytest
import torch

from segloss_fast.ops.distance_transform import triton_launch
from tests.ops.distance_transform_cases import SIDES
from tests.ops.triton.compiler import compile_launch

pytestmark = pytest.mark.compiled

DTYPES = (torch.uint8, torch.int64, torch.float16, torch.float32)


@pytest.mark.parametrize(
    ("side", "dtype", "capability"),
    [  # each side with two dtypes, and each dtype with two sides
        (side, DTYPES[(row + column) % len(DTYPES)], capability)
        for row, side in enumerate(SIDES)
        for column, capability in enumerate((80, 90))
    ],
    ids=str,
)
def test_nothing_spills(side: str, dtype: torch.dtype, capability: int) -> None:
    with torch.device("meta"):
        mask = torch.empty((1, 2, 64, 64, 64), dtype=dtype)
        out = torch.empty(mask.shape)
        results = [triton_launch.Result(side, squared=False)]
        results.append(triton_launch.Result(side, squared=True, bounded=True, add=True))
        launches = [
            launch
            for result in results
            for launch in triton_launch.launches(mask, [1.0, 1.0, 2.0], result, out)
        ]
    assert len(launches) == 6
    for launch in launches[:3] + launches[-1:]:
        found = compile_launch(launch, capability)
        assert found.stack == 0
        assert found.registers <= 64
