"""How distance_transform's CUDA kernels run, on the CPU: order of threads, bad calls."""

from __future__ import annotations

import random

import pytest
import torch

from tests.machines import shim
from tests.ops import distance_transform_shim
from tests.ops.distance_transform_cases import random_case

pytestmark = pytest.mark.shim


def test_order_of_threads_changes_nothing() -> None:
    draw, library = random.Random(5), shim("distance_transform")
    for _ in range(10):
        case = random_case(draw, voxels=8000)
        library.segloss_shim_set_seed(0)
        first = distance_transform_shim.run(case)
        library.segloss_shim_set_seed(draw.randrange(1, 1000))
        assert torch.equal(distance_transform_shim.run(case), first), case


def test_what_must_be_refused() -> None:
    shim("distance_transform")
    distance_transform_shim.run_malformed()
