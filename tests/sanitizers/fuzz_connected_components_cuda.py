"""Calls the CUDA kernels of connected_components, built with sanitizers for the CPU, in many ways.

The argument is the library of operators.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from tests.cuda_shim.operators import load
from tests.ops.connected_components_cases import random_case
from tests.ops.connected_components_shim import compare, run_malformed

ROUNDS = 40


def main() -> None:
    library = load(Path(sys.argv[1]))
    draw = random.Random(0)
    for number in range(ROUNDS):
        library.segloss_shim_set_seed(number)
        compare(random_case(draw, voxels=2000))
    run_malformed()
    print("no finding")


if __name__ == "__main__":
    main()
