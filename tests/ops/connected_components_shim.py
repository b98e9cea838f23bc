"""The CUDA operator of connected_components for CPU tensors, and calls of it for the sanitizers.

As a program it makes random calls, and some that must be refused; it needs the library's path.
"""

from __future__ import annotations

import ctypes
import random
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.cuda_shim.operators import CSRC, build_operators
from tests.ops.connected_components_cases import Case, check, random_case

CUDA = CSRC / "connected_components" / "cuda"
LIBRARY = "segloss_shim_connected_components"
NAME = "connected_components_shim.so"


def build_library(folder: Path, *, sanitize: bool) -> Path:
    """Compile the kernels for the CPU."""
    sources = sorted(CUDA.glob("*.cu"))
    return build_operators(sources, folder / NAME, LIBRARY, sanitize=sanitize, options=["-Werror"])


def load(path: Path) -> ctypes.CDLL:
    """Register the operator; return the library, whose order of threads can be set."""
    torch.ops.load_library(str(path))
    return ctypes.CDLL(str(path))


def run(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Return components, count and values by the CUDA kernels, on the CPU."""
    operator = torch.ops.segloss_shim_connected_components._connected_components
    components, count, value, wide = operator(*case.arguments)
    assert not wide.item(), case
    return components, count, value


def compare(case: Case) -> None:
    """Run a problem and compare with scipy."""
    check(run(case), case)


def malformed() -> list[dict[str, Any]]:
    """Return changes of a call that nobody makes through Python, each of which must be refused."""
    return [
        {"labels": torch.zeros(3)},
        {"labels": torch.zeros(2, 3)},
        {"labels": torch.zeros(2, 3, 1, 1, 1, 5)},
        {"labels": torch.zeros(2, 1, 4, 5, dtype=torch.complex64)},
        {"labels": torch.zeros(2, 2, 4, 5, dtype=torch.int64), "by_value": True},
        {"labels": torch.zeros(2, 1, 4, 5), "by_value": True},
        {"labels": torch.zeros(()).expand(1, 1, 2**16, 2**16)},
        {"labels": torch.zeros(()).expand(1, 2**31, 2**31, 2)},
        *({"differing": value} for value in (-1, 0, 3, 2**40)),
        *({"order": value} for value in ([], [0], [0, 0], [0, 2], [-1, 0], [0, 1, 2])),
    ]


GOOD: dict[str, Any] = {
    "labels": torch.ones(2, 1, 4, 5, dtype=torch.int64),
    "differing": 2,
    "by_value": False,
    "ignore_index": None,
    "order": [0, 1],
}


def run_malformed() -> None:
    """Make the calls that must be refused."""
    operator = torch.ops.segloss_shim_connected_components._connected_components
    operator(*GOOD.values())
    for change in (*malformed(), {"order": [1, 0]}):  # the last is for the CPU's kernels
        try:
            operator(*{**GOOD, **change}.values())
        except RuntimeError:
            continue
        raise AssertionError(f"not refused: {change}")


def main() -> None:
    path, cases = Path(sys.argv[1]), int(sys.argv[2])
    library = load(path)
    draw = random.Random(0)
    for number in range(cases):
        library.segloss_shim_set_seed(number)
        compare(random_case(draw, voxels=2000))
    run_malformed()
    print("no finding")


if __name__ == "__main__":
    main()
