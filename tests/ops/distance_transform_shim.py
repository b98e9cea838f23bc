"""Calls of distance_transform's CUDA operator on the CPU, for the sanitizers.

As a program it makes random calls, and some that must be refused; it needs the library's path.
"""

from __future__ import annotations

import contextlib
import random
import sys
from pathlib import Path

import torch
from torch import Tensor

from tests.cuda_shim.operators import CSRC, load
from tests.ops.distance_transform_cases import SIDES, Case, check, random_case, seeds

CUDA = CSRC / "distance_transform" / "cuda"


def run(case: Case) -> Tensor:
    """Return the distances by the CUDA kernels, on the CPU, of the library that is loaded."""
    operator = torch.ops.segloss_shim_distance_transform._distance_transform
    side = SIDES.index(case.side)
    result: Tensor = operator(case.mask, list(case.spacing), side, case.squared)
    return result


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
    run_malformed()
    print("no finding")


if __name__ == "__main__":
    main()
