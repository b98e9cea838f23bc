"""How connected_components' CUDA kernels run, on the CPU: order of threads, bad calls."""

from __future__ import annotations

import random

import pytest
import torch

from tests.machines import shim
from tests.ops import connected_components_shim
from tests.ops.connected_components_cases import random_case

pytestmark = [pytest.mark.shim, pytest.mark.usefixtures("new_tensors_are_nan")]


def test_order_of_threads_changes_nothing() -> None:
    draw, library = random.Random(5), shim("connected_components")
    for _ in range(10):
        case = random_case(draw)
        library.segloss_shim_set_seed(0)
        first = connected_components_shim.run(case)
        library.segloss_shim_set_seed(draw.randrange(1, 1000))
        for one, other in zip(first, connected_components_shim.run(case), strict=True):
            assert torch.equal(one, other), case


def test_values_that_int32_does_not_hold() -> None:
    shim("connected_components")
    operator = torch.ops.segloss_shim_connected_components._connected_components
    for value, dtype, wide in (
        *((2**31, torch.int64, 1), (-(2**31) - 1, torch.int64, 1), (2**31 - 1, torch.int64, 0)),
        *((-(2**31), torch.int64, 0), (-1, torch.int32, 0), (2**62, torch.int64, 1)),
    ):
        labels = torch.zeros(1, 1, 40, dtype=dtype)
        labels[0, 0, 35] = value
        assert operator(labels, 1, True, None, [0])[3].item() == wide
        assert operator(labels, 1, True, value, [0])[3].item() == 0
    unsigned = torch.full((1, 1, 40), -1, dtype=torch.int32).view(torch.uint32)
    assert operator(unsigned, 1, True, None, [0])[3].item() == 1


def test_what_must_be_refused() -> None:
    shim("connected_components")
    connected_components_shim.run_malformed()
