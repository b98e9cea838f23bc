"""Calls the CUDA kernels of distance_transform, built with sanitizers for the CPU, in many ways.

The argument is the library of operators.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch

from tests.cuda_shim.operators import load
from tests.ops import nearest_cases
from tests.ops.distance_transform_cases import Case, check, random_case, seeds
from tests.ops.distance_transform_shim import (
    run,
    run_malformed,
    run_malformed_nearest,
    run_nearest,
)

ROUNDS = 40


def main() -> None:
    library = load(Path(sys.argv[1]))
    draw = random.Random(0)
    torch.use_deterministic_algorithms(True)  # new tensors are full of NaN
    for number in range(ROUNDS):
        library.segloss_shim_set_seed(number)
        case = random_case(draw, voxels=4000)
        check(run(case), case)
    for shape in ((1030,), (2, 600), (600, 2), (1750, 1), (1750, 2, 2)):
        for side in ("inside", "signed"):
            case = Case(seeds(shape, 3), [1.0] * len(shape), side)
            check(run(case), case)
    for _ in range(ROUNDS):
        nearest = nearest_cases.random_case(draw, voxels=600)
        nearest_cases.check(nearest, *run_nearest(nearest))
    for shape in ((1030,), (890, 2), (1750, 1)):
        nearest = nearest_cases.sparse(shape, 2**30)
        nearest_cases.check(nearest, *run_nearest(nearest))
    run_malformed()
    run_malformed_nearest()
    print("no finding")


if __name__ == "__main__":
    main()
