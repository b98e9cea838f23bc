"""How the CUDA kernels of nearest_component run, on the CPU: order of threads, bad calls."""

from __future__ import annotations

import random

import pytest
import torch

from tests import machines
from tests.ops import distance_transform_shim as shim
from tests.ops.nearest_cases import random_case

pytestmark = [pytest.mark.shim, pytest.mark.usefixtures("new_tensors_are_nan")]


def test_order_of_threads_changes_nothing() -> None:
    draw, library = random.Random(5), machines.shim("distance_transform")
    for _ in range(5):
        case = random_case(draw, voxels=2000)
        library.segloss_shim_set_seed(0)
        first = shim.run_nearest(case)
        library.segloss_shim_set_seed(draw.randrange(1, 1000))
        for one, other in zip(shim.run_nearest(case), first, strict=True):
            assert torch.equal(one, other), case


def test_what_must_be_refused() -> None:
    machines.shim("distance_transform")
    shim.run_malformed_nearest()
