"""Calls of distance_transform's CUDA operators on the CPU, for the sanitizers.

As a program it makes random calls, and some that must be refused; it needs the library's path.
"""

from __future__ import annotations

import contextlib
import random
import sys
from pathlib import Path

import torch
from torch import Tensor

from segloss_fast.ops.distance_transform.spacing import squares
from tests.cuda_shim.operators import CSRC, load
from tests.ops import nearest_cases
from tests.ops.distance_transform_cases import SIDES, Case, check, random_case, seeds

CUDA = CSRC / "distance_transform" / "cuda"


def run(case: Case) -> Tensor:
    """Return the distances by the CUDA kernels, on the CPU, of the library that is loaded."""
    operator = torch.ops.segloss_shim_distance_transform._distance_transform
    side = SIDES.index(case.side)
    result: Tensor = operator(case.mask, list(case.spacing), side, case.squared)
    return result


def call_nearest(case: nearest_cases.Case, *, distance: bool = True) -> tuple[Tensor, Tensor]:
    """Return nearest labels and distances by the CUDA kernels, on the CPU."""
    operator = torch.ops.segloss_shim_distance_transform._distance_transform_nearest
    unit, weights = squares(case.spacing)
    nearest, distances, _ = operator(case.labels, weights, unit, distance)
    return nearest, distances


def run_nearest(case: nearest_cases.Case) -> tuple[Tensor, Tensor]:
    """Likewise; the labels alone must be the same."""
    nearest, distances = call_nearest(case)
    alone, none = call_nearest(case, distance=False)
    assert torch.equal(nearest, alone), case
    assert none.numel() == 0
    return nearest, distances


def run_malformed_nearest() -> None:
    """As below, of the other operator."""
    operator = torch.ops.segloss_shim_distance_transform._distance_transform_nearest
    labels = torch.ones(1, 2, 3, 4, dtype=torch.int32)
    for arguments in (
        (labels, [1.0], 1.0, False),
        (labels, [0.0, 1.0], 1.0, False),
        (labels, [1.0, float("nan")], 1.0, True),
        (labels, [1.0, 1e30], 1.0, True),
        (labels, [1.0, 1.0], 0.0, True),
        (labels.float(), [1.0, 1.0], 1.0, False),
        (labels[0], [], 1.0, False),
        (labels[0, 0], [], 1.0, False),
        (labels[None, None], [1.0] * 4, 1.0, False),
    ):
        with contextlib.suppress(RuntimeError):
            operator(*arguments)
            raise AssertionError(f"not refused: {arguments[1:]}")


def run_malformed() -> None:
    """Calls that Python's checks would refuse, made directly: an error, or a harmless answer."""
    operator = torch.ops.segloss_shim_distance_transform._distance_transform
    mask = torch.ones(1, 2, 3, 4)
    for arguments in (
        (mask, [1.0], 0, False),
        (mask, [1.0] * 3, 0, False),
        (mask, [0.0, 1.0], 0, False),
        (mask, [1.0, float("nan")], 0, False),
        (mask, [1.0, 1.0], 4, False),
        (mask, [1.0, 1.0], -1, False),
        (mask[0], [], 0, False),
        (mask[0, 0], [], 0, False),
        (mask[None, None], [1.0] * 4, 0, False),
        (mask.to(torch.complex64), [1.0, 1.0], 0, False),
    ):
        with contextlib.suppress(RuntimeError):
            operator(*arguments)
            raise AssertionError(f"not refused: {arguments[1:]}")


def main() -> None:
    path, cases = Path(sys.argv[1]), int(sys.argv[2])
    library = load(path)
    draw = random.Random(0)
    torch.use_deterministic_algorithms(True)  # new tensors are full of NaN
    for number in range(cases):
        library.segloss_shim_set_seed(number)
        case = random_case(draw, voxels=4000)
        check(run(case), case)
    for shape in ((1030,), (2, 600), (600, 2), (1750, 1), (1750, 2, 2)):
        for side in ("inside", "signed"):
            case = Case(seeds(shape, 3), [1.0] * len(shape), side)
            check(run(case), case)
    for _ in range(cases):
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
