"""Calls of connected_components' CUDA operator on the CPU, for the sanitizers.

As a program it makes random calls, and some that must be refused; it needs the library's path.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch
from torch import Tensor

from tests.cuda_shim.operators import load
from tests.ops.connected_components_cases import Case, check, random_case
from tests.sanitizers.fuzz_connected_components import GOOD, malformed


def run(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Return components, count and values by the CUDA kernels, on the CPU."""
    operator = torch.ops.segloss_shim_connected_components._connected_components
    components, count, value, wide = operator(*case.arguments)
    assert not wide.item(), case
    return components, count, value


def compare(case: Case) -> None:
    """Run a problem and compare with scipy."""
    check(run(case), case)


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
