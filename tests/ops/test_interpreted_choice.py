"""Triton's interpreter serves on the CPU on request, and never by itself."""

from __future__ import annotations

import pytest
import torch

from segloss_fast import backends
from segloss_fast.ops._operator import preference
from tests.machines import kernels_of


@pytest.mark.parametrize(
    "primitive",
    [
        *("region_masks", "confusion_sums", "hardest_voxels", "soft_skeleton", "structural_error"),
        *("region_sums", "lovasz"),
    ],
)
def test_the_choice(primitive: str) -> None:
    device = torch.device("cpu")
    kernels = kernels_of(primitive)
    assert kernels.choose("triton", device) == "triton"
    assert kernels.choose("auto", device) != "triton"
    assert "triton" not in preference(device)
    (said,) = (
        b for b in backends() if (b.primitive, b.impl, b.device) == (primitive, "triton", "cpu")
    )
    assert said.available
    assert said.detail.endswith("interpreted")
